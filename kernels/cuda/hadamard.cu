#include "kernels/cuda/device/hadamard_row.h"
#include "kernels/cuda/hadamard.h"

namespace quantloom::cuda {
namespace {

// Elements of a block of threads, as many whole Sylvester blocks as there are in so many.
constexpr uint32_t kChunk = 1024;

// Where the signs and the scale are applied: by the last pass.
struct Ending {
  float scale;
  const float* after;

  __device__ __forceinline__ float Apply(float x, uint32_t column) const {
    return EndTransform(x, scale, after, column);
  }
};

// The innermost factor, on `chunk` elements of a row.
__global__ void __launch_bounds__(kRowThreads)
    Sylvester(const float* x, uint32_t x_stride, uint32_t cols, uint32_t power, uint32_t chunk,
              const float* before, Ending ending, float* out, uint32_t out_stride) {
  float* const values = static_cast<float*>(DynamicShared());  // [RowPlace(chunk)]
  const uint32_t first = blockIdx.y * chunk;
  const uint32_t count = cols - first < chunk ? cols - first : chunk;
  const float* const from = x + static_cast<size_t>(blockIdx.x) * x_stride + first;
  float* const to = out + static_cast<size_t>(blockIdx.x) * out_stride + first;
  for (uint32_t i = threadIdx.x; i < count; i += kRowThreads) {
    values[RowPlace(i)] = before == nullptr ? from[i] : __fmul_rn(from[i], before[first + i]);
  }
  TransformSylvester(values, count, power);
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < count; i += kRowThreads)
    to[i] = ending.Apply(values[RowPlace(i)], first + i);
}

// A factor with stored signs, in place.
__global__ void __launch_bounds__(kRowThreads)
    ApplyFactor(HadamardFactorView factor, uint32_t cols, Ending ending, float* out,
                uint32_t out_stride) {
  float* const values = static_cast<float*>(DynamicShared());  // [order, kFactorLanes]
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t vector = blockIdx.y * kFactorLanes + lane;
  const bool there = vector < cols / factor.order;
  const uint32_t first = FirstOfVector(factor, vector);
  float* const row = out + static_cast<size_t>(blockIdx.x) * out_stride;
  for (uint32_t i = threadIdx.x / 32; i < factor.order; i += kRowWarps) {
    values[i * kFactorLanes + lane] = there ? row[first + i * factor.inner] : 0.0f;
  }
  __syncthreads();
  if (!there) return;
  for (uint32_t i = threadIdx.x / 32; i < factor.order; i += kRowWarps) {
    const uint32_t column = first + i * factor.inner;
    row[column] = ending.Apply(FactorSum(factor, values, i), column);
  }
}

}  // namespace

const char* TransformRows(const HadamardView& transform, const float* x, uint32_t x_stride,
                          uint32_t rows, float* out, uint32_t out_stride, Stream stream) {
  const Ending last{transform.scale, transform.after};
  const Ending none{1.0f, nullptr};
  const uint32_t power = transform.power;
  const uint32_t chunk = power < kChunk ? kChunk / power * power : power;
  if (const char* error = LaunchKernel(
          dim3(rows, DivideUp(transform.cols, chunk)), kRowThreads, RowPlace(chunk) * sizeof(float),
          stream, Sylvester, x, x_stride, transform.cols, power, chunk, transform.before,
          transform.factor_count == 0 ? last : none, out, out_stride)) {
    return error;
  }
  for (uint32_t f = 0; f < transform.factor_count; ++f) {
    const HadamardFactorView& factor = transform.factors[f];
    if (const char* error = LaunchKernel(
            dim3(rows, DivideUp(transform.cols / factor.order, kFactorLanes)), kRowThreads,
            factor.order * kFactorLanes * sizeof(float), stream, ApplyFactor, factor,
            transform.cols, f + 1 == transform.factor_count ? last : none, out, out_stride)) {
      return error;
    }
  }
  return nullptr;
}

}  // namespace quantloom::cuda
