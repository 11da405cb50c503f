#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/hadamard.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kLanes = 32;
constexpr uint32_t kWarps = kThreads / kLanes;
// Elements of a block of threads, as many whole Sylvester blocks as there are in so many.
constexpr uint32_t kChunk = 1024;

// Where the signs and the scale are applied: by the last pass.
struct Ending {
  float scale;
  const float* after;

  __device__ __forceinline__ float Apply(float x, uint32_t column) const {
    x *= scale;
    return after == nullptr ? x : x * after[column];
  }
};

// The innermost factor, on `chunk` elements of a row.
__global__ void __launch_bounds__(kThreads)
    Sylvester(const float* x, uint32_t x_stride, uint32_t cols, uint32_t power, uint32_t chunk,
              const float* before, Ending ending, float* out, uint32_t out_stride) {
  float* const values = static_cast<float*>(DynamicShared());  // [chunk]
  const uint32_t first = blockIdx.y * chunk;
  const uint32_t count = cols - first < chunk ? cols - first : chunk;
  const float* const from = x + static_cast<size_t>(blockIdx.x) * x_stride + first;
  float* const to = out + static_cast<size_t>(blockIdx.x) * out_stride + first;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    values[i] = before == nullptr ? from[i] : from[i] * before[first + i];
  }
  for (uint32_t half = 1; half < power; half *= 2) {
    __syncthreads();
    for (uint32_t pair = threadIdx.x; pair < count / 2; pair += kThreads) {
      const uint32_t low = pair / half * 2 * half + pair % half;
      const float a = values[low];
      const float b = values[low + half];
      values[low] = a + b;
      values[low + half] = a - b;
    }
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < count; i += kThreads)
    to[i] = ending.Apply(values[i], first + i);
}

// A factor with stored signs, in place. A lane a vector of `order` elements, `inner` apart; sums go
// through its elements in order.
__global__ void __launch_bounds__(kThreads)
    ApplyFactor(HadamardFactorView factor, uint32_t cols, Ending ending, float* out,
                uint32_t out_stride) {
  float* const values = static_cast<float*>(DynamicShared());  // [order, lanes]
  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t vector = blockIdx.y * kLanes + lane;
  const bool there = vector < cols / factor.order;
  const uint32_t first =
      vector / factor.inner * factor.order * factor.inner + vector % factor.inner;
  float* const row = out + static_cast<size_t>(blockIdx.x) * out_stride;
  for (uint32_t i = threadIdx.x / kLanes; i < factor.order; i += kWarps) {
    values[i * kLanes + lane] = there ? row[first + i * factor.inner] : 0.0f;
  }
  __syncthreads();
  if (!there) return;
  const uint32_t words = DivideUp(factor.order, 32);
  for (uint32_t i = threadIdx.x / kLanes; i < factor.order; i += kWarps) {
    float sum = 0;
    for (uint32_t word = 0; word < words; ++word) {
      uint32_t signs = factor.signs[i * words + word];
      const uint32_t end = factor.order < word * 32 + 32 ? factor.order : word * 32 + 32;
      for (uint32_t c = word * 32; c < end; ++c, signs >>= 1) {
        const float value = values[c * kLanes + lane];
        sum += (signs & 1) != 0 ? -value : value;
      }
    }
    const uint32_t column = first + i * factor.inner;
    row[column] = ending.Apply(sum, column);
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
          dim3(rows, DivideUp(transform.cols, chunk)), kThreads, chunk * sizeof(float), stream,
          Sylvester, x, x_stride, transform.cols, power, chunk, transform.before,
          transform.factor_count == 0 ? last : none, out, out_stride)) {
    return error;
  }
  for (uint32_t f = 0; f < transform.factor_count; ++f) {
    const HadamardFactorView& factor = transform.factors[f];
    if (const char* error = LaunchKernel(
            dim3(rows, DivideUp(transform.cols / factor.order, kLanes)), kThreads,
            factor.order * kLanes * sizeof(float), stream, ApplyFactor, factor, transform.cols,
            f + 1 == transform.factor_count ? last : none, out, out_stride)) {
      return error;
    }
  }
  return nullptr;
}

}  // namespace quantloom::cuda
