// Rows of a matrix by their numbers: the embedding of tokens.
#pragma once

#include <cstdint>

#include "kernels/cuda/sample.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// out[i] = row tokens[i] of the table, in fp32; `out` [count, cols], rows of `stride` elements. The
// table is a HalfMatrixView or a ByteMatrixView (MatrixUse::kRows); tokens[i] < its rows. A
// negative tokens[i] stands for chosen[~tokens[i]]; `chosen` may be null where there is none. Null,
// or why the kernel could not be launched.
const char* EmbedRows(const MatrixView& table, const int32_t* tokens, const SampledToken* chosen,
                      uint32_t count, uint32_t cols, float* out, uint32_t stride, Stream stream);

}  // namespace quantloom::cuda
