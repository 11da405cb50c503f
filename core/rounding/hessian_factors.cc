#include "core/rounding/hessian_factors.h"

#include <vector>

#include "core/base/status.h"

namespace quantloom {
namespace {

// What of the options the input side, and so the Hessian, depends on.
IncoherenceOptions InputSide(const IncoherenceOptions& options) {
  if (options.kind == IncoherenceKind::kNone) return {.kind = IncoherenceKind::kNone};
  return {
      .kind = IncoherenceKind::kInput, .blocks = options.blocks, .input_seed = options.input_seed};
}

}  // namespace

absl::StatusOr<std::shared_ptr<const FactoredHessian>> HessianFactors::Factor(
    const Incoherence& incoherence, uint64_t block, ThreadTeam& team) {
  const IncoherenceOptions side = InputSide(incoherence.options());
  if (factored_ && factored_->ldl.block() == block && factored_for_ == side) return factored_;
  factored_ = nullptr;
  Hessian transformed = hessian_;
  if (side.kind != IncoherenceKind::kNone) {
    std::vector<double> values = std::move(transformed).Release();
    incoherence.TransformHessian(absl::MakeSpan(values), team);
    transformed = Hessian(hessian_.size(), std::move(values), hessian_.tokens());
  }
  QL_ASSIGN_OR_RETURN(BlockLdl ldl, BlockLdl::Factor(transformed, block, team));
  factored_ = std::make_shared<const FactoredHessian>(
      FactoredHessian{std::move(transformed), std::move(ldl)});
  factored_for_ = side;
  return factored_;
}

}  // namespace quantloom
