// y = W x on tensor cores, W decoded in registers from whatever form it is stored in.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// y[token, row] = sum over columns of W[row, column] x[token, column], fp32, rows of `stride`
// elements. `x` must have the form ActivationFormOf(w) and as many panels as w.
//
// Within a panel of 128 columns int8 forms accumulate in int32, exactly, and fp16 in the tensor
// core's fp32; panels are added in fp32 in an order that the matrix's shape decides: an element's
// value depends on its row and its token alone. Null, or why the kernel could not be launched.
const char* Multiply(const MatrixView& w, const Activations& x, float* y, uint32_t stride,
                     Stream stream);

}  // namespace quantloom::cuda
