#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/embed.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kThreads = 256;

// Word of a tile's fragments that has the first of a row's columns column .. column + 3 (they are
// in one word of bytes, in two of halves, which are two words apart).
__device__ __forceinline__ size_t FragmentWord(uint32_t row, uint32_t column, uint32_t panels,
                                               uint32_t steps, uint32_t word) {
  const uint32_t panel = column / kPanelColumns;
  const uint32_t step = column % kLaneColumns / (kLaneColumns / steps);
  const uint32_t owner = row % 8 * 4 + column % kPanelColumns / kLaneColumns;
  const size_t tile = static_cast<size_t>(row / kTileRows) * panels + panel;
  return ((tile * steps + step) * 32 + owner) * 4 + word + row % kTileRows / 8;
}

__device__ __forceinline__ void LoadFour(const ByteMatrixView& w, uint32_t row, uint32_t column,
                                         float (&values)[4]) {
  const uint32_t word = w.fragments[FragmentWord(row, column, w.panels, 4, column % 8 / 4 * 2)];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int element = static_cast<int8_t>(word >> (8 * i));
    values[i] = __fmaf_rn(w.scales[row], __int2float_rn(element), w.offsets[row]);
  }
}

__device__ __forceinline__ void LoadFour(const HalfMatrixView& w, uint32_t row, uint32_t column,
                                         float (&values)[4]) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const uint32_t word = w.fragments[FragmentWord(row, column, w.panels, 8, 2 * pair)];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const __half element = __ushort_as_half(static_cast<uint16_t>(word >> (16 * i)));
      values[2 * pair + i] = w.scales[row] * __half2float(element);
    }
  }
}

// A block a token, four columns a thread in turn.
template <typename View>
__global__ void __launch_bounds__(kThreads)
    LookUpRows(View table, const int32_t* tokens, const SampledToken* chosen, uint32_t cols,
               float* out, uint32_t stride) {
  const int32_t token = tokens[blockIdx.x];
  const auto row = static_cast<uint32_t>(token < 0 ? chosen[~token].token : token);
  float* const to = out + static_cast<size_t>(blockIdx.x) * stride;
  for (uint32_t column = 4 * threadIdx.x; column < cols; column += 4 * kThreads) {
    float values[4];
    LoadFour(table, row, column, values);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (column + i < cols) to[column + i] = values[i];
    }
  }
}

}  // namespace

const char* EmbedRows(const MatrixView& table, const int32_t* tokens, const SampledToken* chosen,
                      uint32_t count, uint32_t cols, float* out, uint32_t stride, Stream stream) {
  if (const auto* bytes = std::get_if<ByteMatrixView>(&table)) {
    return LaunchKernel(count, kThreads, 0, stream, LookUpRows<ByteMatrixView>, *bytes, tokens,
                        chosen, cols, out, stride);
  }
  if (const auto* halves = std::get_if<HalfMatrixView>(&table)) {
    return LaunchKernel(count, kThreads, 0, stream, LookUpRows<HalfMatrixView>, *halves, tokens,
                        chosen, cols, out, stride);
  }
  return "EmbedRows: the table is neither fp16 nor int8";
}

}  // namespace quantloom::cuda
