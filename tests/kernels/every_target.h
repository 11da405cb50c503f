// Runs a piece of a test on every SIMD target that this machine has, the emulated one included.
#pragma once

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cpu {

// body() with each target forced; afterwards the best is in use again.
inline void OnEveryTarget(absl::FunctionRef<void(const std::string& target)> body) {
  const std::vector<const char*> targets = AvailableTargets();
  for (const char* target : targets) {
    ASSERT_TRUE(ForceTarget(target).ok());
    SCOPED_TRACE(target);
    body(target);
  }
  ASSERT_TRUE(ForceTarget(targets.front()).ok());
}

// Whether two arrays are the same bit for bit.
inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The first target's result is the one that all others must reproduce bit for bit.
inline void ExpectSameBitsOnEveryTarget(absl::FunctionRef<std::vector<float>()> compute) {
  std::vector<float> first;
  OnEveryTarget([&](const std::string& target) {
    std::vector<float> result = compute();
    if (first.empty()) first = result;
    EXPECT_TRUE(SameBits(result, first)) << target << " differs from " << AvailableTargets()[0];
  });
}

// The kernels' sum written plainly: lane l takes elements i = l mod 16 in ascending order by FMA,
// then lanes are added pairwise at distances 8, 4, 2, 1.
inline float SixteenLaneDot(const float* a, const float* b, size_t n) {
  float lanes[16] = {};
  for (size_t i = 0; i < n; ++i) lanes[i % 16] = std::fma(a[i], b[i], lanes[i % 16]);
  for (size_t width = 8; width > 0; width /= 2) {
    for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

}  // namespace quantloom::cpu
