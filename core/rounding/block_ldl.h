// Block LDL decomposition of a Hessian, H = L D L^T with unit block-lower L and block-diagonal D:
// what LDLQ feeds quantization errors back with (QuIP#, arXiv 2402.04396, section 4; QTIP, arXiv
// 2406.11235, section 3).
//
// Thread-safety: immutable once made.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "core/rounding/hessian.h"

namespace quantloom {

class BlockLdl {
 public:
  // Decomposes the damped Hessian H + lambda I with lambda = 0.01 mean(diag H), made 10 times
  // larger as often as the factorization fails, so that a singular or tiny-sample Hessian never
  // does. Dead inputs (zero on the diagonal) get the mean of the others as their diagonal and no
  // coupling; they do not count towards the mean. An all-zero Hessian decomposes as the identity.
  // `block`: 1, 8 or 16; where it does not divide n the last block is smaller.
  // The bits depend neither on the number of threads nor on the SIMD target. About n^3 / 6
  // multiply-adds; 2 n^2 bytes for L beside the Hessian's own memory, which is freed.
  // INVALID_ARGUMENT for another block width, an empty Hessian or one that is not finite.
  static absl::StatusOr<BlockLdl> Factor(Hessian hessian, uint64_t block, ThreadTeam& team);

  uint64_t size() const { return n_; }
  uint64_t block() const { return block_; }
  // lambda, in the Hessian's unit, and how often it was raised.
  double damping() const { return damping_; }
  int attempts() const { return attempts_; }
  // Dead inputs in ascending order.
  absl::Span<const uint64_t> dead() const { return dead_; }

  // L[row, column]: 1 on the diagonal, 0 right of it and within a diagonal block.
  float L(uint64_t row, uint64_t column) const;
  // D[row, column], nonzero within a diagonal block.
  double D(uint64_t row, uint64_t column) const;

  // Columns [48 panel, 48 panel + 48) of L as [n - 48 panel, 48], zeros past column n: the rows
  // from n - 1 up to 48 panel, in the descending order in which LDLQ adds up their feedback.
  const float* Panel(uint64_t panel) const { return l_.data() + panel_offsets_[panel]; }

 private:
  BlockLdl(uint64_t n, uint64_t block) : n_(n), block_(block) {}

  // The factors from a = C C^T, C in the lower half of row-major a [n, n]: L_ji = C_ji C_ii^-1 and
  // D_i = C_ii C_ii^T, by blocks.
  void SetFactors(const std::vector<double>& a, ThreadTeam& team);
  void SetRowOfL(const std::vector<double>& a, uint64_t row);
  void SetRowOfD(const std::vector<double>& a, uint64_t row);

  uint64_t n_;
  uint64_t block_;
  double damping_ = 0;
  int attempts_ = 1;
  std::vector<uint64_t> dead_;
  std::vector<uint64_t> panel_offsets_;  // into l_
  std::vector<float> l_;                 // the panels, one after the other
  std::vector<double> d_;                // [n, block]: the row's part of its diagonal block
};

}  // namespace quantloom
