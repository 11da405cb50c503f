// Calibration inputs for the tests of Hessians and of rounding.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/parallel.h"
#include "core/rounding/hessian.h"
#include "tests/core/gaussian_values.h"

namespace quantloom {

// [tokens, n] with neighbours correlated as 0.9 per step of distance, and a spread of scales.
inline std::vector<float> CorrelatedInputs(uint64_t tokens, uint64_t n, uint32_t seed) {
  std::vector<float> inputs = GaussianValues(tokens * n, seed);
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
