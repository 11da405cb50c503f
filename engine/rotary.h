// Rotary position embedding (Su et al. 2021, RoFormer), with the frequency scalings that
// ModelConfig knows.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/format/model_config.h"

namespace quantloom {

// Angles come from +, -, *, / alone, so they are the same bits on every machine: calibration
// activations, and with them packed bytes, depend on them. Immutable.
class RotaryEmbedding {
 public:
  explicit RotaryEmbedding(const ModelConfig& config);

  // cos(position * f_i) for i < head_dim / 2, then as many sines.
  void Angles(uint32_t position, float* out) const;
  // f_i, radians per position.
  absl::Span<const double> frequencies() const { return frequencies_; }

 private:
  std::vector<double> frequencies_;
};

}  // namespace quantloom
