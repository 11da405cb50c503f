// Operators on rows that are kernels of their own and steps of a chain (row_chain.h), written once.
#pragma once

#include "kernels/cuda/device/reduce.h"

namespace quantloom::cuda {

// silu(gate) * up.
__device__ __forceinline__ float Swiglu(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

constexpr uint32_t kNormWarps = 8;

// What RMSNorm multiplies a row with: `squares` is the thread's sum of squares, every
// 32 kNormWarps-th column in turn; `sums` [kNormWarps] is shared memory.
__device__ __forceinline__ float NormFactor(float squares, uint32_t cols, float eps, float* sums) {
  return 1.0f / sqrtf(BlockSum<kNormWarps>(squares, sums) / static_cast<float>(cols) + eps);
}

}  // namespace quantloom::cuda
