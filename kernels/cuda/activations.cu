#include "kernels/cuda/activations.h"
#include "kernels/cuda/device/reduce.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreadColumns = kPanelColumns / 32;
// Shared memory and with it the columns of the totals.
constexpr uint32_t kMostPanels = (48u << 10) / sizeof(float);

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

// A block a token, a panel a warp in turn, four consecutive columns a lane.
template <ActivationForm kForm>
__global__ void __launch_bounds__(32 * kWarps)
    ConvertActivations(const float* x, uint32_t cols, uint32_t stride, Activations out) {
  constexpr uint32_t kParts = PartsOfPanel(kForm);
  constexpr uint32_t kPartColumns = kLaneColumns / kParts;
  float* const totals = static_cast<float*>(DynamicShared());  // [panels]; int8 alone
  const uint32_t token = blockIdx.x;
  const uint32_t padded_tokens = gridDim.x;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t column = lane * kThreadColumns;
  for (uint32_t panel = threadIdx.x / 32; panel < out.panels; panel += kWarps) {
    const uint32_t first = panel * kPanelColumns + column;
    float values[kThreadColumns];
    float largest = 0;
    bool finite = true;
#pragma unroll
    for (uint32_t i = 0; i < kThreadColumns; ++i) {
      const bool there = token < out.tokens && first + i < cols;
      values[i] = there ? x[static_cast<size_t>(token) * stride + first + i] : 0.0f;
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

uint32_t PaddedTokens(uint32_t tokens) { return DivideUp(tokens, kTokenTile) * kTokenTile; }

}  // namespace

size_t ActivationBytes(ActivationForm form, uint32_t tokens, uint32_t cols) {
  const size_t padded = PaddedTokens(tokens);
  const size_t panels = DivideUp(cols, kPanelColumns);
  return padded * (panels * (kPanelColumns * ActivationElementBytes(form) + sizeof(float)) +
                   (form == ActivationForm::kInt8 ? sizeof(float) : 0));
}

Activations ActivationsAt(ActivationForm form, uint32_t tokens, uint32_t cols, void* memory) {
  const size_t padded = PaddedTokens(tokens);
  const uint32_t panels = DivideUp(cols, kPanelColumns);
  const size_t words = padded * panels * kPanelColumns * ActivationElementBytes(form) / 4;
  auto* const fragments = static_cast<uint32_t*>(memory);
  auto* const scales = reinterpret_cast<float*>(fragments + words);
  return {.form = form,
          .tokens = tokens,
          .panels = panels,
          .fragments = fragments,
          .scales = scales,
          .totals = form == ActivationForm::kInt8 ? scales + padded * panels : nullptr};
}

const char* PrepareActivations(const float* x, uint32_t cols, uint32_t stride,
                               const Activations& out, Stream stream) {
  if (out.panels > kMostPanels) return "PrepareActivations: too many columns";
  const uint32_t blocks = PaddedTokens(out.tokens);
  if (out.form == ActivationForm::kHalf) {
    return LaunchKernel(blocks, 32 * kWarps, 0, stream, ConvertActivations<ActivationForm::kHalf>,
                        x, cols, stride, out);
  }
  return LaunchKernel(blocks, 32 * kWarps, out.panels * sizeof(float), stream,
                      ConvertActivations<ActivationForm::kInt8>, x, cols, stride, out);
}

}  // namespace quantloom::cuda
