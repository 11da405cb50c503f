// A Hessian with its block LDL factors, made when first asked for and kept: the layers that share
// an input (q/k/v, gate/up) are rounded with one factorization.
//
// Thread-safety: none.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/rounding/block_ldl.h"
#include "core/rounding/hessian.h"

namespace quantloom {

class HessianFactors {
 public:
  explicit HessianFactors(Hessian hessian) : hessian_(std::move(hessian)) {}

  const Hessian& hessian() const { return hessian_; }

  // The factors for blocks of `block` columns; valid until the next call with another width. Errors
  // are BlockLdl::Factor's.
  absl::StatusOr<const BlockLdl*> Ldl(uint64_t block, ThreadTeam& team);

 private:
  Hessian hessian_;
  std::optional<BlockLdl> ldl_;
};

}  // namespace quantloom
