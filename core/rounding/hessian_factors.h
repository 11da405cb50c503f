// A Hessian with its block LDL factors, made when first asked for and kept: the layers that share
// an input (q/k/v, gate/up) are rounded with one factorization.
//
// Thread-safety: none.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/rounding/block_ldl.h"
#include "core/rounding/hessian.h"
#include "core/transform/incoherence.h"

namespace quantloom {

struct FactoredHessian {
  Hessian hessian;  // as it is, without damping
  BlockLdl ldl;
};

class HessianFactors {
 public:
  explicit HessianFactors(Hessian hessian) : hessian_(std::move(hessian)) {}

  const Hessian& hessian() const { return hessian_; }

  // H~ as `incoherence` makes it (H where its inputs stay as they are), factored for blocks of
  // `block` columns. Kept until another input side or another block is asked for. Errors are
  // BlockLdl::Factor's.
  absl::StatusOr<std::shared_ptr<const FactoredHessian>> Factor(const Incoherence& incoherence,
                                                                uint64_t block, ThreadTeam& team);

 private:
  Hessian hessian_;
  std::shared_ptr<const FactoredHessian> factored_;
  IncoherenceOptions factored_for_;  // its input side
};

}  // namespace quantloom
