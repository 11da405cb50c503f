#include "kernels/cuda/device/row_formulas.h"
#include "kernels/cuda/norm.h"

namespace quantloom::cuda {
namespace {

__global__ void __launch_bounds__(32 * kNormWarps)
    RmsNormRows(const float* x, const uint32_t* rows, uint32_t cols, const float* weight, float eps,
                float* out) {
  float* const sums = static_cast<float*>(DynamicShared());  // [kNormWarps]
  const uint32_t row = rows == nullptr ? blockIdx.x : rows[blockIdx.x];
  const float* const from = x + static_cast<size_t>(row) * cols;
  float* const to = out + static_cast<size_t>(blockIdx.x) * cols;
  float squares = 0;
  for (uint32_t c = threadIdx.x; c < cols; c += 32 * kNormWarps) {
    squares = __fmaf_rn(from[c], from[c], squares);
  }
  const float factor = NormFactor(squares, cols, eps, sums);
  for (uint32_t c = threadIdx.x; c < cols; c += 32 * kNormWarps)
    to[c] = from[c] * factor * weight[c];
}

}  // namespace

const char* RmsNorm(const float* x, const uint32_t* rows, uint32_t count, uint32_t cols,
                    const float* weight, float eps, float* out, Stream stream) {
  return LaunchKernel(count, 32 * kNormWarps, kNormWarps * sizeof(float), stream, RmsNormRows, x,
                      rows, cols, weight, eps, out);
}

}  // namespace quantloom::cuda
