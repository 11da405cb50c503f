#include "core/rounding/hessian_factors.h"

#include "core/base/status.h"

namespace quantloom {

absl::StatusOr<const BlockLdl*> HessianFactors::Ldl(uint64_t block, ThreadTeam& team) {
  if (!ldl_ || ldl_->block() != block) {
    ldl_.reset();
    QL_ASSIGN_OR_RETURN(BlockLdl ldl, BlockLdl::Factor(hessian_, block, team));
    ldl_ = std::move(ldl);
  }
  return &*ldl_;
}

}  // namespace quantloom
