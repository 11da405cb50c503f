#include "kernels/cuda/dense_operands.h"
#include "kernels/cuda/device/reduce.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kThreads = 256;

// 2^(e - 14) for values below 2^(e + 1), e >= -100.
__device__ __forceinline__ uint32_t ScaleBits(float largest) {
  const uint32_t exponent = __float_as_uint(largest) >> 23;
  return ((exponent < 27 ? 27 : exponent) - 14) << 23;
}

// A block a token.
__global__ void __launch_bounds__(kThreads) Halve(const float* x, uint32_t cols, uint32_t stride,
                                                  uint32_t padded, uint16_t* out, float* scales) {
  float* const warps = static_cast<float*>(DynamicShared());
  const float* const row = x + static_cast<size_t>(blockIdx.x) * stride;
  float largest = 0;
  for (uint32_t c = threadIdx.x; c < cols; c += kThreads) {
    // NaN, too, becomes infinite.
    largest = fabsf(row[c]) <= 3.402823466e38f ? fmaxf(largest, fabsf(row[c]))
                                               : __uint_as_float(0x7F800000u);
  }
  largest = WarpMaximum(largest);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (uint32_t warp = 0; warp < kThreads / 32; ++warp) largest = fmaxf(largest, warps[warp]);
  const bool finite = largest <= 3.402823466e38f;
  const uint32_t bits = ScaleBits(largest);
  const float inverse = finite ? __uint_as_float((254u << 23) - bits) : 0.0f;
  for (uint32_t pair = threadIdx.x; pair < padded / 2; pair += kThreads) {
    const uint32_t c = 2 * pair;
    const float low = finite && c < cols ? row[c] * inverse : 0.0f;
    const float high = finite && c + 1 < cols ? row[c + 1] * inverse : 0.0f;
    reinterpret_cast<__half2*>(out + static_cast<size_t>(blockIdx.x) * padded)[pair] =
        __floats2half2_rn(low, high);
  }
  if (threadIdx.x == 0) {
    scales[blockIdx.x] = finite ? __uint_as_float(bits) : __uint_as_float(0x7FC00000u);
  }
}

__global__ void __launch_bounds__(kThreads)
    Scale(float* y, uint32_t rows, uint32_t stride, const float* scales) {
  const uint32_t row = blockIdx.x * kThreads + threadIdx.x;
  if (row < rows) y[static_cast<size_t>(blockIdx.y) * stride + row] *= scales[blockIdx.y];
}

}  // namespace

const char* ExpandForm(const TrellisView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream) {
  switch (w.code) {
    case TrellisCode::k3Inst:
      return Expand3Inst(w, first_row, rows, out, stream);
    case TrellisCode::kHyb:
      return ExpandHyb(w, first_row, rows, out, stream);
    default:
      return ExpandByteSums(w, first_row, rows, out, stream);
  }
}

const char* ExpandRows(const MatrixView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream) {
  if (first_row % kExpandRows != 0) return "ExpandRows: the first row is not a multiple of 32";
  return std::visit(
      [&](const auto& view) { return ExpandForm(view, first_row, rows, out, stream); }, w);
}

const char* HalveRows(const float* x, uint32_t tokens, uint32_t cols, uint32_t stride,
                      uint16_t* out, float* scales, Stream stream) {
  return LaunchKernel(dim3(tokens), kThreads, kThreads / 32 * sizeof(float), stream, Halve, x, cols,
                      stride, PaddedColumns(cols), out, scales);
}

const char* ScaleRows(float* y, uint32_t tokens, uint32_t rows, uint32_t stride,
                      const float* scales, Stream stream) {
  return LaunchKernel(dim3(DivideUp(rows, kThreads), tokens), kThreads, 0, stream, Scale, y, rows,
                      stride, scales);
}

}  // namespace quantloom::cuda
