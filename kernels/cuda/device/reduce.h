// Sums and maxima over a warp or a block, in one order.
#pragma once

#include "kernels/cuda/device/primitives.h"

namespace quantloom::cuda {

constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// All lanes get the same bits: each step adds the same two numbers in both of the lanes that swap.
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = __fadd_rn(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

// Of numbers; NaN where all are.
__device__ __forceinline__ float WarpMaximum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

// Sum over a block of kWarps full warps, for all its threads; `sums` is shared memory. Warps are
// added in order.
template <uint32_t kWarps>
__device__ __forceinline__ float BlockSum(float x, float* sums) {
  x = WarpSum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (uint32_t warp = 0; warp < kWarps; ++warp) sum = __fadd_rn(sum, sums[warp]);
  return sum;
}

}  // namespace quantloom::cuda
