// The Hessian of a linear layer's output error: H = sum over calibration tokens of x x^T, x the
// layer's input [n]. Layers that read the same input (q/k/v, gate/up) share one.
//
//   Hessian hessian(n);
//   for (const auto& window : windows) hessian.Accumulate(window.inputs, team);
//   auto ldl = BlockLdl::Factor(std::move(hessian), /*block=*/16, team);
//
// Stored as a full square of fp64, not as a triangle: incoherence transforms act on rows and
// columns in place, and the factorization works in the lower half while the upper keeps the
// original. 8 n^2 bytes: 19 MB for n = 1536, 6.6 GB for n = 28 672.
//
// Thread-safety: compatible (const methods from several threads, Accumulate from one).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/base/parallel.h"

namespace quantloom {

class Hessian {
 public:
  // Tokens whose products are summed in fp32 before they join the fp64 sum: the chain is short
  // enough to lose nothing that calibration noise would not hide (relative 1e-6), and twice as fast
  // as fp64.
  static constexpr uint64_t kChunkTokens = 256;

  // All zeros, no tokens.
  explicit Hessian(uint64_t n);
  // From a symmetric row-major matrix [n, n] (the lower half is read): a stored or transformed
  // Hessian. `tokens`: how many it sums over.
  Hessian(uint64_t n, std::vector<double> data, uint64_t tokens);

  // Adds x x^T for each row x of `inputs`, row-major [tokens, n]. Each chunk of kChunkTokens tokens
  // is summed in token order in fp32 and then added in fp64; chunks start anew with each call. So
  // the bits depend on the inputs' order and on how they are cut into calls, unless every call but
  // the last holds a multiple of kChunkTokens tokens; they depend neither on the number of threads
  // nor on the SIMD target. Non-finite inputs make a non-finite Hessian, which BlockLdl refuses.
  void Accumulate(absl::Span<const float> inputs, ThreadTeam& team);

  uint64_t size() const { return n_; }
  uint64_t tokens() const { return tokens_; }
  // Row-major [n, n], symmetric.
  absl::Span<const double> data() const { return data_; }
  double at(uint64_t i, uint64_t j) const { return data_[i * n_ + j]; }
  // The matrix itself; this object is empty afterwards.
  std::vector<double> Release() &&;

  // sum of x_i^2 per column [n].
  std::vector<double> Diagonal() const;
  // The mean of x_i^2 per column [n]: a column's importance. Zeros when there are no tokens.
  std::vector<float> MeanSquares() const;

 private:
  void AddTokens(const float* inputs, uint64_t tokens, ThreadTeam& team);

  uint64_t n_;
  uint64_t tokens_ = 0;
  std::vector<double> data_;   // [n, n]
  std::vector<float> packed_;  // inputs as panels [panel][token][48], reused between calls
};

}  // namespace quantloom
