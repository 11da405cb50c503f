// What happens to rows of activations between two products, in one kernel: a block takes a row
// into shared memory, and every step of it there.
#pragma once

#include <cstdint>

#include "kernels/cuda/hadamard.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Columns of a row that a block's shared memory has room for on every device, beside the largest
// factor's vectors.
constexpr uint32_t kMostChainColumns = 16384;

// Steps in their order; those that are left out are zero. Each has the bits of the kernel that it
// is elsewhere.
struct RowChain {
  uint32_t rows = 0;
  uint32_t cols = 0;  // at most kMostChainColumns
  // The row: x[t], or x[gather[t]]; or SwiGlu of x [rows, 2 cols].
  const float* x = nullptr;
  uint32_t x_stride = 0;
  const uint32_t* gather = nullptr;
  bool swiglu = false;
  // TransformRows of a product's outputs; of no columns where they are not transformed.
  HadamardView output = {};
  // sum[t] += row, and the row is the sum (Add).
  float* sum = nullptr;
  uint32_t sum_stride = 0;
  // RmsNorm.
  const float* norm = nullptr;  // [cols]
  float norm_eps = 0;
  // Where the row is written as it is now.
  float* out = nullptr;
  uint32_t out_stride = 0;
  // TransformRows of the next product's inputs; of no columns where they are not transformed.
  HadamardView input = {};
  // PrepareActivations; without `fragments` nothing is prepared.
  Activations activations = {};
};

// Null, or why the kernel could not be launched.
const char* RunRowChain(const RowChain& chain, Stream stream);

// Outputs of products that lie side by side: each is transformed, and has its bias added.
struct OutputPart {
  uint32_t first = 0;           // column
  uint32_t cols = 0;            // at most kMostChainColumns
  HadamardView transform = {};  // of no columns where it is not transformed
  const float* bias = nullptr;  // [cols] or null
};
constexpr uint32_t kMostOutputParts = 3;
struct OutputParts {
  OutputPart parts[kMostOutputParts] = {};
  uint32_t count = 0;
};

// y[t, part] = TransformRows(y[t, part]) + bias, for every part, rows of `stride` elements: one
// kernel. Null, or why it could not be launched.
const char* FinishOutputs(const OutputParts& parts, float* y, uint32_t stride, uint32_t rows,
                          Stream stream);

}  // namespace quantloom::cuda
