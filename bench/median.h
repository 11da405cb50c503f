#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace quantloom {

// The median of at least one value, of an even number the upper one. What benchmarks report: a
// virtual processor may stand still for tens of milliseconds, which would be what a mean tells.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace quantloom
