// The SIMD part of the Hadamard transform: one block, one thread. hadamard.h is the interface.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quantloom {

// A small Hadamard matrix as the kernels read it: the signs of four neighbouring entries of a row
// in one code.
struct SignCodes {
  size_t order;          // a multiple of 4
  const uint8_t* codes;  // [order, order / 4]; bit t of codes[i, g]: entry (i, 4g + t) is -1
};

// One block, H = F_1 (x) F_2 (x) ... (x) Sylvester(power).
struct HadamardBlock {
  const SignCodes* factors;  // outermost first
  size_t num_factors;
  size_t power;         // order of the Sylvester factor, a power of two
  size_t order;         // of the whole
  double scale;         // 1 / sqrt(order)
  const float* before;  // [order] signs that x is multiplied with before H, or null
  const float* after;   // [order] signs that the result is multiplied with, or null
};

// Columns that one call of TransformPanel works on: 128 bytes, so that a gather of a panel from a
// row-major matrix uses whole cache lines.
template <typename T>
inline constexpr size_t kPanelColumns = 128 / sizeof(T);

// x <- after * scale * H * (before * x) for one vector of `order` elements.
void TransformVector(const HadamardBlock& block, float* x);
void TransformVector(const HadamardBlock& block, double* x);

// The same for every column of x [order, kPanelColumns], row-major, aligned to 64 bytes. A column's
// result has the bits that TransformVector gives.
void TransformPanel(const HadamardBlock& block, float* x);
void TransformPanel(const HadamardBlock& block, double* x);

}  // namespace quantloom
