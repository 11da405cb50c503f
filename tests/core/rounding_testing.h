// Inputs and weights for the tests of Hessians and of rounding.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "core/base/parallel.h"
#include "core/rounding/hessian.h"

namespace quantloom {

inline std::vector<float> GaussianFloats(uint64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// [tokens, n] with neighbours correlated as 0.9 per step of distance, and a spread of scales.
inline std::vector<float> CorrelatedInputs(uint64_t tokens, uint64_t n, uint32_t seed) {
  std::vector<float> inputs = GaussianFloats(tokens * n, seed);
  for (uint64_t t = 0; t < tokens; ++t) {
    float* row = inputs.data() + t * n;
    for (uint64_t i = 1; i < n; ++i) row[i] = 0.9f * row[i - 1] + 0.436f * row[i];
    for (uint64_t i = 0; i < n; ++i) row[i] *= 0.25f + static_cast<float>(i % 5);
  }
  return inputs;
}

inline Hessian CorrelatedHessian(uint64_t tokens, uint64_t n, uint32_t seed) {
  ThreadTeam team(1);
  Hessian hessian(n);
  hessian.Accumulate(CorrelatedInputs(tokens, n, seed), team);
  return hessian;
}

}  // namespace quantloom
