#include "core/rounding/hessian_factors.h"

#include <algorithm>
#include <numeric>
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

std::vector<uint32_t> ColumnsInOrder(const Hessian& hessian, ColumnOrder order) {
  std::vector<uint32_t> columns(hessian.size());
  std::iota(columns.begin(), columns.end(), 0u);
  if (order == ColumnOrder::kByImportance) {
    std::stable_sort(columns.begin(), columns.end(),
                     [&](uint32_t a, uint32_t b) { return hessian.at(a, a) < hessian.at(b, b); });
  }
  return columns;
}

Hessian Reordered(const Hessian& hessian, const std::vector<uint32_t>& columns, ThreadTeam& team) {
  const uint64_t n = hessian.size();
  std::vector<double> values(n * n);
  team.ParallelFor(n, 16, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      for (uint64_t j = 0; j < n; ++j) values[i * n + j] = hessian.at(columns[i], columns[j]);
    }
  });
  return Hessian(n, std::move(values), hessian.tokens());
}

}  // namespace

absl::StatusOr<std::shared_ptr<const FactoredHessian>> HessianFactors::Factor(
    const Incoherence& incoherence, uint64_t block, ColumnOrder order, ThreadTeam& team) {
  const IncoherenceOptions side = InputSide(incoherence.options());
  if (factored_ && factored_->ldl.block() == block && factored_for_ == side &&
      factored_order_ == order) {
    return factored_;
  }
  factored_ = nullptr;
  Hessian transformed = hessian_;
  if (side.kind != IncoherenceKind::kNone) {
    std::vector<double> values = std::move(transformed).Release();
    incoherence.TransformHessian(absl::MakeSpan(values), team);
    transformed = Hessian(hessian_.size(), std::move(values), hessian_.tokens());
  }
  std::vector<uint32_t> columns = ColumnsInOrder(transformed, order);
  if (order != ColumnOrder::kStored) transformed = Reordered(transformed, columns, team);
  QL_ASSIGN_OR_RETURN(BlockLdl ldl, BlockLdl::Factor(transformed, block, team));
  factored_ = std::make_shared<const FactoredHessian>(
      FactoredHessian{std::move(transformed), std::move(ldl), std::move(columns)});
  factored_for_ = side;
  factored_order_ = order;
  return factored_;
}

}  // namespace quantloom
