// A row of activations as products read it, made by the threads of one block.
#pragma once

#include "kernels/cuda/device/reduce.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Whoever prepares a row does so with as many warps.
constexpr uint32_t kPrepareWarps = 8;
constexpr uint32_t kThreadColumns = kPanelColumns / 32;

// 2^(e - 14) for values below 2^(e + 1), e >= -100.
__device__ __forceinline__ uint32_t HalfScaleBits(float largest) {
  const uint32_t exponent = __float_as_uint(largest) >> 23;
  return ((exponent < 27 ? 27 : exponent) - 14) << 23;
}

// A lane's four values of a panel as elements; the sum of those that are integers.
template <ActivationForm kForm>
struct Elements;

template <>
struct Elements<ActivationForm::kInt8> {
  float scale;
  uint32_t word;
  int sum;

  __device__ __forceinline__ void Convert(const float (&values)[kThreadColumns], float largest,
                                          bool finite) {
    scale = largest / 127.0f;
    word = 0;
    sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < kThreadColumns; ++i) {
      const int code = finite && largest > 0 ? __float2int_rn(values[i] / largest * 127.0f) : 0;
      word |= (static_cast<uint32_t>(code) & 0xFFu) << (8 * i);
      sum += code;
    }
  }
  __device__ __forceinline__ void Store(uint8_t* to) const {
    *reinterpret_cast<uint32_t*>(to) = word;
  }
};

template <>
struct Elements<ActivationForm::kHalf> {
  float scale;
  __half2 pairs[2];

  __device__ __forceinline__ void Convert(const float (&values)[kThreadColumns], float largest,
                                          bool finite) {
    scale = __uint_as_float(HalfScaleBits(largest));
    const float inverse = finite ? __uint_as_float((254u << 23) - HalfScaleBits(largest)) : 0.0f;
    pairs[0] =
        __floats2half2_rn(finite ? values[0] * inverse : 0.0f, finite ? values[1] * inverse : 0.0f);
    pairs[1] =
        __floats2half2_rn(finite ? values[2] * inverse : 0.0f, finite ? values[3] * inverse : 0.0f);
  }
  __device__ __forceinline__ void Store(uint8_t* to) const {
    reinterpret_cast<__half2*>(to)[0] = pairs[0];
    reinterpret_cast<__half2*>(to)[1] = pairs[1];
  }
};

// Token `token` of `out` from x(column), column < cols; zeros where it is none of its tokens. A
// panel a warp in turn, four consecutive columns a lane. `totals` is shared memory, [panels], for
// int8.
template <ActivationForm kForm, typename Row>
__device__ __forceinline__ void PrepareRowAs(const Activations& out, uint32_t token, uint32_t cols,
                                             const Row& x, float* totals) {
  constexpr uint32_t kParts = PartsOfPanel(kForm);
  constexpr uint32_t kPartColumns = kLaneColumns / kParts;
  const uint32_t padded_tokens = DivideUp(out.tokens, kTokenTile) * kTokenTile;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t column = lane * kThreadColumns;
  for (uint32_t panel = threadIdx.x / 32; panel < out.panels; panel += kPrepareWarps) {
    const uint32_t first = panel * kPanelColumns + column;
    float values[kThreadColumns];
    float largest = 0;
    bool finite = true;
#pragma unroll
    for (uint32_t i = 0; i < kThreadColumns; ++i) {
      values[i] = token < out.tokens && first + i < cols ? x(first + i) : 0.0f;
      finite = finite && fabsf(values[i]) <= 3.402823466e38f;
      largest = fmaxf(largest, fabsf(values[i]));
    }
    largest = WarpMaximum(largest);
    finite = __any_sync(kAllLanes, !finite) == 0;
    Elements<kForm> elements;
    elements.Convert(values, largest, finite);

    const uint32_t tile = token / kTokenTile;
    const uint32_t part = column % kLaneColumns / kPartColumns;
    const uint32_t owner = token % kTokenTile * 4 + column / kLaneColumns;
    uint8_t* const fragment =
        reinterpret_cast<uint8_t*>(out.fragments) +
        (((static_cast<size_t>(tile) * out.panels + panel) * kParts + part) * 32 + owner) * 16;
    elements.Store(fragment + column % kPartColumns * ActivationElementBytes(kForm));

    const float scale = finite ? elements.scale : __uint_as_float(0x7FC00000u);
    if (lane == 0) out.scales[static_cast<size_t>(panel) * padded_tokens + token] = scale;
    if constexpr (kForm == ActivationForm::kInt8) {
      const int total =
          static_cast<int>(__reduce_add_sync(kAllLanes, static_cast<uint32_t>(elements.sum)));
      if (lane == 0) totals[panel] = scale * __int2float_rn(total);
    }
  }
  if constexpr (kForm == ActivationForm::kInt8) {
    __syncthreads();
    if (threadIdx.x != 0) return;
    float total = 0;
    for (uint32_t panel = 0; panel < out.panels; ++panel) total += totals[panel];
    out.totals[token] = total;
  }
}

template <typename Row>
__device__ __forceinline__ void PrepareRow(const Activations& out, uint32_t token, uint32_t cols,
                                           const Row& x, float* totals) {
  if (out.form == ActivationForm::kInt8) {
    PrepareRowAs<ActivationForm::kInt8>(out, token, cols, x, totals);
  } else {
    PrepareRowAs<ActivationForm::kHalf>(out, token, cols, x, totals);
  }
}

}  // namespace quantloom::cuda
