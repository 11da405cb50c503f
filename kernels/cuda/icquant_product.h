// y = W x for ICQuant matrices, decoded in registers and multiplied on tensor cores.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Tokens of one pass over the weights; more take several.
constexpr uint32_t kProductTokens = 16;

// y[token, row] = sum over columns of W[row, column] x[token, column], fp32, rows of `stride`
// elements. Of `bits` and `outliers` as the tiles were made. Within a panel products accumulate in
// int32, exactly; panels are added in fp32 in an order that the matrix's shape decides: an
// element's value depends on its row and its token alone. Null, or why the kernel could not be
// launched.
const char* MultiplyIcquant(const IcquantView& w, int bits, bool outliers,
                            const Int8ActivationsView& x, float* y, uint32_t stride, Stream stream);

}  // namespace quantloom::cuda
