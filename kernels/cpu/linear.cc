#include "kernels/cpu/linear.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/icquant_operator.h"

namespace quantloom::cpu {

absl::StatusOr<std::unique_ptr<LinearOperator>> LinearOperator::FromPacked(
    std::unique_ptr<PackedMatrix> matrix) {
  if (dynamic_cast<IcquantMatrix*>(matrix.get()) != nullptr) {
    return MakeIcquantOperator(
        std::unique_ptr<IcquantMatrix>(static_cast<IcquantMatrix*>(matrix.release())));
  }
  return absl::UnimplementedError(
      absl::StrCat("no CPU kernel for recipe '", matrix->recipe(), "'"));
}

}  // namespace quantloom::cpu
