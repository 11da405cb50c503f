#include "kernels/cpu/linear.h"

#include "absl/strings/str_cat.h"

namespace quantloom::cpu {

absl::StatusOr<std::unique_ptr<LinearOperator>> LinearOperator::FromPacked(
    std::unique_ptr<PackedMatrix> matrix) {
  return absl::UnimplementedError(
      absl::StrCat("no CPU kernel for recipe '", matrix->recipe(), "'"));
}

}  // namespace quantloom::cpu
