// What a library for dense products (dense_library.h) reads, and what has to be done to its
// results.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Rows of it that are expanded begin at multiples of this.
constexpr uint32_t kExpandRows = 32;

// Columns of its operands: whole panels.
constexpr uint32_t PaddedColumns(uint32_t cols) {
  return DivideUp(cols, kPanelColumns) * kPanelColumns;
}

// out[i, c] = W[first_row + i, c], i < rows, columns padded to whole panels; values rounded to fp16
// (beyond its range: infinite). Null, or why the kernel could not be launched.
const char* ExpandRows(const MatrixView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream);

// out[t, c] = x[t, c] / scales[t] in fp16, columns padded by zeros to whole panels; rows of x of
// `stride` elements. A token's scale is the power of two that brings max|x| into [2^14, 2^15), of a
// token with infinite or NaN values NaN. Null, or why the kernel could not be launched.
const char* HalveRows(const float* x, uint32_t tokens, uint32_t cols, uint32_t stride,
                      uint16_t* out, float* scales, Stream stream);

// y[t, r] *= scales[t]; r < rows, rows of y of `stride` elements. Null, or why the kernel could not
// be launched.
const char* ScaleRows(float* y, uint32_t tokens, uint32_t rows, uint32_t stride,
                      const float* scales, Stream stream);

}  // namespace quantloom::cuda
