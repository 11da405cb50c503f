#include "kernels/cuda/device/reduce.h"
#include "kernels/cuda/rotary.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kWarps = 4;

__device__ __forceinline__ uint16_t ToHalf(float x) { return __half_as_ushort(__float2half_rn(x)); }

// A warp a head of a row: queries, then keys, then values.
__global__ void __launch_bounds__(32 * kWarps)
    RotateAndStoreHeads(BatchView batch, RotaryParameters parameters, const float* angles,
                        float* qkv, KvView kv) {
  const uint32_t row = blockIdx.x;
  const uint32_t head = blockIdx.y * kWarps + threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  const int32_t position = batch.positions[row];
  const uint32_t all_heads = parameters.heads + 2 * kv.kv_heads;
  if (position < 0 || head >= all_heads) return;
  const uint32_t dim = kv.head_dim;
  float* const x = qkv + (static_cast<size_t>(row) * all_heads + head) * dim;
  const bool is_query = head < parameters.heads;
  const bool is_value = head >= parameters.heads + kv.kv_heads;

  // Where a key or value goes.
  uint16_t* to = nullptr;
  if (!is_query) {
    const auto p = static_cast<uint32_t>(position);
    const auto block = static_cast<size_t>(batch.blocks[batch.tables[row] + p / kv.block_tokens]);
    const uint32_t plane_head = head - parameters.heads;  // those of values follow those of keys
    to = kv.keys + block * kv.block_stride +
         (static_cast<size_t>(plane_head) * kv.block_tokens + p % kv.block_tokens) * dim;
  }
  if (is_value) {
    for (uint32_t i = lane; i < dim; i += 32) to[i] = ToHalf(x[i]);
    return;
  }
  const float* const weight = is_query ? parameters.q_norm : parameters.k_norm;
  float factor = 1;
  if (weight != nullptr) {
    float squares = 0;
    for (uint32_t i = lane; i < dim; i += 32) squares = __fmaf_rn(x[i], x[i], squares);
    factor = 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(dim) + parameters.norm_eps);
  }
  const uint32_t half = dim / 2;
  const float* const cosines = angles + static_cast<size_t>(row) * dim;
  for (uint32_t i = lane; i < half; i += 32) {
    float low = x[i];
    float high = x[i + half];
    if (weight != nullptr) {
      low = low * factor * weight[i];
      high = high * factor * weight[i + half];
    }
    const float cosine = cosines[i];
    const float sine = cosines[half + i];
    const float rotated_low = __fmaf_rn(low, cosine, -__fmul_rn(high, sine));
    const float rotated_high = __fmaf_rn(high, cosine, __fmul_rn(low, sine));
    if (is_query) {
      x[i] = rotated_low;
      x[i + half] = rotated_high;
    } else {
      to[i] = ToHalf(rotated_low);
      to[i + half] = ToHalf(rotated_high);
    }
  }
}

}  // namespace

const char* RotateAndStore(const BatchView& batch, const RotaryParameters& parameters,
                           const float* angles, float* qkv, const KvView& kv, Stream stream) {
  const uint32_t all_heads = parameters.heads + 2 * kv.kv_heads;
  return LaunchKernel(dim3(batch.rows, DivideUp(all_heads, kWarps)), 32 * kWarps, 0, stream,
                      RotateAndStoreHeads, batch, parameters, angles, qkv, kv);
}

}  // namespace quantloom::cuda
