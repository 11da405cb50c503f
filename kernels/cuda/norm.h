// Root mean square normalization (Zhang and Sennrich, arXiv 1910.07467).
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// out[i, c] = x[r, c] / sqrt(mean over c of x[r, c]^2 + eps) * weight[c] with r = rows[i], or i
// where `rows` is null; i < count, c < cols, both matrices without gaps. A row's squares are summed
// by 256 threads, columns in turn, and those sums by a fixed tree. Null, or why the kernel could
// not be launched.
const char* RmsNorm(const float* x, const uint32_t* rows, uint32_t count, uint32_t cols,
                    const float* weight, float eps, float* out, Stream stream);

}  // namespace quantloom::cuda
