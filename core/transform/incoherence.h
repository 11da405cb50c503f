// Incoherence processing by the randomized Hadamard transform (QuIP#, arXiv 2402.04396, section 3;
// QTIP, arXiv 2406.11235, section 2.2). For y = W x with W [rows, cols]:
//
//   W~ = V S_V W S_U U^T     what is quantized: its entries are near Gaussian
//   H~ = U S_U H S_U U^T     the Hessian E[x x^T] that goes with it
//   x~ = U S_U x             before the product
//   y  = S_V V^T y~          after it, where y~ = W~ x~
//
// U [cols, cols] and V [rows, rows] are orthonormal Hadamard matrices (hadamard.h), S_U and S_V
// diagonals of random signs, each derived from a 64-bit seed. Layers with the same input (q, k and
// v; gate and up) share an input seed, so that one transform of x and one Hessian serve them.
//
//   const Incoherence incoherence(rows, cols, {.input_seed = 1, .output_seed = 2});
//   incoherence.TransformWeights(w, team);   // then quantize w
//   incoherence.TransformInputs(x, team);    // at run time
//   ... y = W~ x ...
//   incoherence.RestoreOutputs(y, team);
//
// docs/incoherence.md defines all of it for a reader in another language.
//
// Thread-safety: immutable. Results do not depend on the number of threads or the SIMD target.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "core/transform/hadamard.h"

namespace quantloom {

enum class IncoherenceKind {
  kNone,      // nothing is transformed
  kInput,     // V S_V is left out: outputs need nothing
  kTwoSided,  // as above
};

struct IncoherenceOptions {
  IncoherenceKind kind = IncoherenceKind::kTwoSided;
  HadamardBlocks blocks = HadamardBlocks::kFull;
  uint64_t input_seed = 0;   // of S_U
  uint64_t output_seed = 0;  // of S_V; unused with kInput

  bool operator==(const IncoherenceOptions&) const = default;
};

// `count` signs, +1 or -1: sign i is -1 where bit i % 64 (from the least significant) of output
// i / 64 of SplitMix64 is set.
std::vector<float> RandomSigns(uint64_t seed, size_t count);

class Incoherence {
 public:
  Incoherence(size_t rows, size_t cols, const IncoherenceOptions& options);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  const IncoherenceOptions& options() const { return options_; }

  // U S_U and V S_V; null where nothing is transformed.
  const HadamardTransform* input() const { return input_ ? &*input_ : nullptr; }
  const HadamardTransform* output() const { return output_ ? &*output_ : nullptr; }

  // W -> W~ and back; w is [rows, cols], row-major, in place.
  void TransformWeights(absl::Span<float> w, ThreadTeam& team) const;
  void RestoreWeights(absl::Span<float> w, ThreadTeam& team) const;

  // H -> H~; h is [cols, cols], symmetric and stays so exactly.
  void TransformHessian(absl::Span<double> h, ThreadTeam& team) const;

  // x -> x~ for every row of x [tokens, cols]; y~ -> y for every row of y [tokens, rows].
  void TransformInputs(absl::Span<float> x, ThreadTeam& team) const;
  void RestoreOutputs(absl::Span<float> y, ThreadTeam& team) const;

 private:
  size_t rows_, cols_;
  IncoherenceOptions options_;
  std::optional<HadamardTransform> input_, output_;
};

}  // namespace quantloom
