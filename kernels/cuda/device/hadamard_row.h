// The Hadamard transform of a row in shared memory, by the threads of one block.
#pragma once

#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/hadamard.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

constexpr uint32_t kRowThreads = 256;
constexpr uint32_t kRowWarps = kRowThreads / 32;
// Vectors of a factor that are transformed at a time, one a lane.
constexpr uint32_t kFactorLanes = 32;
// Stages of Sylvester's factor between two barriers, on 2^4 elements in registers.
constexpr uint32_t kMostStages = 4;

// Where element i of a row is. The gaps keep a warp that reads every 16th element out of each
// other's banks.
QL_HOST_DEVICE constexpr uint32_t RowPlace(uint32_t i) { return i + i / 32; }

// Butterflies of distances half, 2 half, ... of `count` elements, all of them multiples of
// half << kStages.
template <uint32_t kStages>
__device__ __forceinline__ void Butterflies(float* row, uint32_t count, uint32_t half) {
  constexpr uint32_t kElements = 1u << kStages;
  for (uint32_t group = threadIdx.x; group < count / kElements; group += kRowThreads) {
    const uint32_t first = group / half * half * kElements + group % half;
    float values[kElements];
#pragma unroll
    for (uint32_t i = 0; i < kElements; ++i) values[i] = row[RowPlace(first + i * half)];
#pragma unroll
    for (uint32_t stage = 0; stage < kStages; ++stage) {
#pragma unroll
      for (uint32_t i = 0; i < kElements; ++i) {
        if ((i >> stage & 1) != 0) continue;
        const float a = values[i];
        const float b = values[i | 1u << stage];
        values[i] = a + b;
        values[i | 1u << stage] = a - b;
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kElements; ++i) row[RowPlace(first + i * half)] = values[i];
  }
}

// Sylvester's matrix of order `power` on `count` elements, a multiple of it. Barriers come before
// each pass over the elements and not after the last.
__device__ __forceinline__ void TransformSylvester(float* row, uint32_t count, uint32_t power) {
  for (uint32_t half = 1; half < power;) {
    __syncthreads();
    const uint32_t left = power / half;
    if (left >= 1u << kMostStages) {
      Butterflies<kMostStages>(row, count, half);
      half <<= kMostStages;
    } else if (left == 8) {
      Butterflies<3>(row, count, half);
      half <<= 3;
    } else if (left == 4) {
      Butterflies<2>(row, count, half);
      half <<= 2;
    } else {
      Butterflies<1>(row, count, half);
      half <<= 1;
    }
  }
}

// The first element of a vector that a factor transforms; the others follow `inner` apart.
__device__ __forceinline__ uint32_t FirstOfVector(const HadamardFactorView& factor,
                                                  uint32_t vector) {
  return vector / factor.inner * factor.order * factor.inner + vector % factor.inner;
}

// Element i of the lane's transformed vector: its elements are added in order. `vectors` is
// [order, kFactorLanes].
__device__ __forceinline__ float FactorSum(const HadamardFactorView& factor, const float* vectors,
                                           uint32_t i) {
  const uint32_t words = DivideUp(factor.order, 32);
  float sum = 0;
  for (uint32_t word = 0; word < words; ++word) {
    uint32_t signs = factor.signs[i * words + word];
    const uint32_t end = factor.order < word * 32 + 32 ? factor.order : word * 32 + 32;
    for (uint32_t c = word * 32; c < end; ++c, signs >>= 1) {
      const float value = vectors[c * kFactorLanes + threadIdx.x % 32];
      sum += (signs & 1) != 0 ? -value : value;
    }
  }
  return sum;
}

// What follows the last factor.
__device__ __forceinline__ float EndTransform(float x, float scale, const float* after,
                                              uint32_t column) {
  x = __fmul_rn(x, scale);
  return after == nullptr ? x : __fmul_rn(x, after[column]);
}

// The whole transform. A thread has elements threadIdx.x, threadIdx.x + kRowThreads, ... before and
// after, so what follows element by element needs no barrier. `vectors` has room for the largest
// factor's.
__device__ __forceinline__ void TransformRow(const HadamardView& transform, float* row,
                                             float* vectors) {
  const uint32_t cols = transform.cols;
  if (transform.before != nullptr) {
    for (uint32_t c = threadIdx.x; c < cols; c += kRowThreads) {
      row[RowPlace(c)] = __fmul_rn(row[RowPlace(c)], transform.before[c]);
    }
  }
  TransformSylvester(row, cols, transform.power);
  __syncthreads();
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t f = 0; f < transform.factor_count; ++f) {
    const HadamardFactorView& factor = transform.factors[f];
    const uint32_t count = cols / factor.order;
    for (uint32_t begin = 0; begin < count; begin += kFactorLanes) {
      const bool there = begin + lane < count;
      const uint32_t first = FirstOfVector(factor, begin + lane);
      for (uint32_t i = threadIdx.x / 32; i < factor.order; i += kRowWarps) {
        vectors[i * kFactorLanes + lane] = there ? row[RowPlace(first + i * factor.inner)] : 0.0f;
      }
      __syncthreads();
      for (uint32_t i = threadIdx.x / 32; there && i < factor.order; i += kRowWarps) {
        row[RowPlace(first + i * factor.inner)] = FactorSum(factor, vectors, i);
      }
      __syncthreads();
    }
  }
  for (uint32_t c = threadIdx.x; c < cols; c += kRowThreads) {
    row[RowPlace(c)] = EndTransform(row[RowPlace(c)], transform.scale, transform.after, c);
  }
}

}  // namespace quantloom::cuda
