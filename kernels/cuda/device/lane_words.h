// Words of a lane, loaded as vectors: where they are is LaneWordPlace (views.h).
#pragma once

#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

template <uint32_t kWords>
__device__ __forceinline__ void LoadLaneWords(const uint32_t* block, uint32_t (&words)[kWords]) {
  const uint32_t lane = threadIdx.x % 32;
  constexpr uint32_t kFours = kWords / 4 * 4;
  if constexpr (kFours > 0) {
#pragma unroll
    for (uint32_t first = 0; first < kFours; first += 4) {
      const uint4 four = LoadOnce(reinterpret_cast<const uint4*>(block + first * 32) + lane);
      words[first] = four.x;
      words[first + 1] = four.y;
      words[first + 2] = four.z;
      words[first + 3] = four.w;
    }
  }
  if constexpr (kWords % 4 >= 2) {
    const uint2 two = LoadOnce(reinterpret_cast<const uint2*>(block + kFours * 32) + lane);
    words[kFours] = two.x;
    words[kFours + 1] = two.y;
  }
  if constexpr (kWords % 2 == 1) {
    words[kWords - 1] = LoadOnce(block + (kWords - 1) * 32 + lane);
  }
}

}  // namespace quantloom::cuda
