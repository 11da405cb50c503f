// Normally distributed values for tests, the same on every run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace quantloom {

template <typename T = float>
std::vector<T> GaussianValues(size_t count, uint32_t seed, T stddev = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<T> normal(0, stddev);
  std::vector<T> values(count);
  for (T& v : values) v = normal(engine);
  return values;
}

}  // namespace quantloom
