// The Hessian of a linear layer's output error, H = sum of x x^T over the layer's inputs x: the
// sums of core/rounding/hessian.h in the same order, so the same bits for the same inputs.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// All pointers are into device memory.
struct HessianUpdate {
  const float* inputs;  // [tokens, n]
  uint32_t tokens;
  uint32_t n;
  double* sum;  // [n, n], of which the lower triangle is kept; the rest is anything
  bool first;   // `sum` is garbage and counts as zeros
};

// Null, or why the kernel could not be launched.
const char* AddToHessian(const HessianUpdate& update, Stream stream);

}  // namespace quantloom::cuda
