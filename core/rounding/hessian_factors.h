// A Hessian with its block LDL factors, made when first asked for and kept: the layers that share
// an input (q/k/v, gate/up) are rounded with one factorization.
//
// Thread-safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/rounding/block_ldl.h"
#include "core/rounding/hessian.h"
#include "core/transform/incoherence.h"

namespace quantloom {

// In which order LDLQ takes a matrix's columns, from the last to the first.
enum class ColumnOrder {
  kStored,
  // By the Hessian's diagonal, ascending: the columns that matter most are rounded first, when all
  // others can still make up for their errors (GPTQ's act-order, arXiv 2210.17323). Only for
  // quantizers that may take columns in any order.
  kByImportance,
};

struct FactoredHessian {
  Hessian hessian;  // as it is, without damping; rows and columns in `columns`' order
  BlockLdl ldl;
  std::vector<uint32_t> columns;  // the column at each place
};

class HessianFactors {
 public:
  explicit HessianFactors(Hessian hessian) : hessian_(std::move(hessian)) {}

  const Hessian& hessian() const { return hessian_; }

  // H~ as `incoherence` makes it (H where its inputs stay as they are), factored for blocks of
  // `block` columns taken in `order`. Kept until another input side, block or order is asked for.
  // Errors are BlockLdl::Factor's.
  absl::StatusOr<std::shared_ptr<const FactoredHessian>> Factor(const Incoherence& incoherence,
                                                                uint64_t block, ColumnOrder order,
                                                                ThreadTeam& team);

 private:
  Hessian hessian_;
  std::shared_ptr<const FactoredHessian> factored_;
  IncoherenceOptions factored_for_;  // its input side
  ColumnOrder factored_order_ = ColumnOrder::kStored;
};

}  // namespace quantloom
