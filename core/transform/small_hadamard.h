// Hadamard matrices whose orders are not powers of two: square matrices of +1 and -1 with
// H H^T = order * I. Every order 4p with p odd, 3 <= p <= 63, except 188 and 236. Most are not
// symmetric.
//
// Which construction makes an order is part of the packed format (docs/incoherence.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quantloom {

inline constexpr size_t kMaxSmallHadamardOrder = 252;

// Whether SmallHadamard can make this order.
bool HasSmallHadamard(size_t order);

// The matrix, row-major, entries +1 and -1. Requires HasSmallHadamard(order). O(order^2).
std::vector<int8_t> SmallHadamard(size_t order);

}  // namespace quantloom
