// What the tests of core/transform share: deterministic values and every SIMD target in turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "hwy/highway.h"

namespace quantloom {

template <typename T = float>
std::vector<T> GaussianValues(size_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<T> normal;
  std::vector<T> values(count);
  for (T& v : values) v = normal(engine);
  return values;
}

// Calls run(name) with each SIMD target of this binary and machine forced, the emulated one
// included, then lets Highway choose again.
template <class F>
void OnEverySimdTarget(const F& run) {
  const int64_t machine = hwy::SupportedTargets();
  for (int64_t left = (machine | HWY_STATIC_TARGET) & (HWY_TARGETS); left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    run(hwy::TargetName(target));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace quantloom
