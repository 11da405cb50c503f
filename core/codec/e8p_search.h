// Nearest entries of E8P's tables for a batch of vectors: the SIMD part of the encoder (e8p.h).
#pragma once

#include <cstddef>

namespace quantloom {

// Vectors of a batch: whole SIMD vectors on every target.
inline constexpr size_t kE8SearchRows = 64;

// For each of the 64 vectors in `targets` [8, 64], with squared errors weighted by `weights` [8,
// 64]: the table entry of the nearest E8P vector as `index` [64], and its shift, -1/4 or +1/4. The
// signs follow from both. Of equal distances the shift -1/4 wins, then the lowest entry.
void SearchE8p(const float* targets, const float* weights, float* index, float* shift);

// The nearest entry of the 1-bit E8 codebook; the lowest of equal distances.
void SearchE8OneBit(const float* targets, const float* weights, float* index);

}  // namespace quantloom
