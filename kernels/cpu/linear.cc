#include "kernels/cpu/linear.h"

#include <utility>

#include "core/transform/incoherence.h"
#include "kernels/cpu/decoded_operator.h"
#include "kernels/cpu/icquant_operator.h"

namespace quantloom::cpu {

std::unique_ptr<LinearOperator> LinearOperator::FromPacked(std::unique_ptr<PackedMatrix> matrix) {
  if (dynamic_cast<IcquantMatrix*>(matrix.get()) != nullptr) {
    return MakeIcquantOperator(
        std::unique_ptr<IcquantMatrix>(static_cast<IcquantMatrix*>(matrix.release())));
  }
  return MakeDecodedOperator(std::move(matrix));
}

bool LinearOperator::decodes_rows() const {
  return incoherence() == nullptr || incoherence()->output() == nullptr;
}

}  // namespace quantloom::cpu
