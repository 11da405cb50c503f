// What is done element by element to rows of activations, fp32. Each returns null, or why the
// kernel could not be launched.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// x[t, c] += y[t, c]; t < rows, c < cols, rows of x_stride and y_stride elements. A y_stride of 0
// adds one row, a bias, to all.
const char* Add(float* x, uint32_t x_stride, const float* y, uint32_t y_stride, uint32_t rows,
                uint32_t cols, Stream stream);

// out[t, c] = silu(gate_up[t, c]) * gate_up[t, cols + c], silu(g) = g / (1 + exp(-g)) (SwiGLU,
// Shazeer, arXiv 2002.05202). gate_up [rows, 2 cols], out [rows, cols].
const char* SwiGlu(const float* gate_up, uint32_t rows, uint32_t cols, float* out, Stream stream);

}  // namespace quantloom::cuda
