// The float form's product over rows of floats in memory: what products of matrices that are
// decoded a few rows at a time run on.
#pragma once

#include <cstddef>

#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// y[t * y_stride + r] = sum_c w[r, c] x[first_token + t, c] for r < rows, t < tokens, the float
// form's sum (linear.h). `w` holds rows of x.cols() floats, w_stride apart: x.cols() rounded up to
// 16, zeros behind.
void MultiplyFloats(const float* w, size_t w_stride, size_t rows, const Activations& x,
                    size_t first_token, size_t tokens, float* y, size_t y_stride);

}  // namespace quantloom::cpu
