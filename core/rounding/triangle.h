// Numbering of a lower triangle's elements row by row: (0,0), (1,0), (1,1), (2,0), ... So that one
// parallel loop runs over the blocks of a symmetric matrix.
#pragma once

#include <cmath>
#include <cstddef>

namespace quantloom {

// Elements of a lower triangle of n rows.
inline constexpr size_t TriangleSize(size_t n) { return n * (n + 1) / 2; }

struct TriangleElement {
  size_t row, column;  // column <= row
};

inline TriangleElement TrianglePosition(size_t index) {
  auto row = static_cast<size_t>((std::sqrt(8.0 * static_cast<double>(index) + 1.0) - 1.0) / 2.0);
  while (TriangleSize(row) > index) --row;  // the root may be off by one
  while (TriangleSize(row + 1) <= index) ++row;
  return {row, index - TriangleSize(row)};
}

}  // namespace quantloom
