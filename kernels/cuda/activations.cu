#include "kernels/cuda/activations.h"
#include "kernels/cuda/device/reduce.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kLaneColumns = kPanelColumns / 32;

// A block a token, a panel a warp in turn. Lane 8 step + 4 half + t has columns 32 step + 16 half +
// 4 t .. + 3, which are neighbours in the output, too.
__global__ void __launch_bounds__(32 * kWarps)
    QuantizeToInt8(const float* x, uint32_t tokens, uint32_t cols, uint32_t stride,
                   Int8Activations out) {
  float* const totals = static_cast<float*>(DynamicShared());  // [panels]
  const uint32_t token = blockIdx.x;
  const uint32_t padded_tokens = gridDim.x;
  const uint32_t panels = DivideUp(cols, kPanelColumns);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t step = lane / 8;
  const uint32_t half = lane / 4 % 2;
  const uint32_t t = lane % 4;
  for (uint32_t panel = threadIdx.x / 32; panel < panels; panel += kWarps) {
    const uint32_t first = panel * kPanelColumns + lane * kLaneColumns;
    float values[kLaneColumns];
    float largest = 0;
    bool finite = true;
#pragma unroll
    for (uint32_t i = 0; i < kLaneColumns; ++i) {
      const bool there = token < tokens && first + i < cols;
      values[i] = there ? x[static_cast<size_t>(token) * stride + first + i] : 0.0f;
      finite = finite && fabsf(values[i]) <= 3.402823466e38f;
      largest = fmaxf(largest, fabsf(values[i]));
    }
    largest = WarpMaximum(largest);
    finite = __any_sync(0xFFFFFFFFu, !finite) == 0;
    const float scale = finite ? largest / 127.0f : __uint_as_float(0x7FC00000u);
    uint32_t word = 0;
    int sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < kLaneColumns; ++i) {
      const int code = finite && largest > 0 ? __float2int_rn(values[i] / largest * 127.0f) : 0;
      word |= (static_cast<uint32_t>(code) & 0xFFu) << (8 * i);
      sum += code;
    }
    int8_t* const codes = out.codes + (static_cast<size_t>(token) * panels + panel) * kPanelColumns;
    *reinterpret_cast<uint32_t*>(codes + t * 32 + step * 8 + half * 4) = word;
    const int total = static_cast<int>(__reduce_add_sync(0xFFFFFFFFu, static_cast<uint32_t>(sum)));
    if (lane == 0) {
      out.scales[static_cast<size_t>(panel) * padded_tokens + token] = scale;
      totals[panel] = scale * __int2float_rn(total);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  float total = 0;
  for (uint32_t panel = 0; panel < panels; ++panel) total += totals[panel];
  out.totals[token] = total;
}

}  // namespace

const char* QuantizeActivations(const float* x, uint32_t tokens, uint32_t cols, uint32_t stride,
                                const Int8Activations& out, Stream stream) {
  const uint32_t padded_tokens = DivideUp(tokens, kTokenTile) * kTokenTile;
  return LaunchKernel(padded_tokens, 32 * kWarps, DivideUp(cols, kPanelColumns) * sizeof(float),
                      stream, QuantizeToInt8, x, tokens, cols, stride, out);
}

}  // namespace quantloom::cuda
