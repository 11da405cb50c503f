#include "kernels/cuda/device/hadamard_row.h"
#include "kernels/cuda/device/prepare_row.h"
#include "kernels/cuda/device/reduce.h"
#include "kernels/cuda/device/row_formulas.h"
#include "kernels/cuda/row_chain.h"

namespace quantloom::cuda {
namespace {

static_assert(kRowWarps == kPrepareWarps && kRowWarps == kNormWarps);

// What a block has in shared memory. 99 KiB is what every device of compute capability 8.0 and up
// lets a block have.
struct RowMemory {
  float* sums;     // [kRowWarps], of the norm
  float* totals;   // [panels], of the activations
  float* row;      // [RowPlace(cols)]
  float* vectors;  // [the largest order, kFactorLanes], of factors
};
constexpr uint32_t kMostFloats = kRowWarps + DivideUp(kMostChainColumns, kPanelColumns) +
                                 RowPlace(kMostChainColumns) + kMaxHadamardFactor * kFactorLanes;
static_assert(kMostFloats * sizeof(float) <= 99u << 10);

__device__ __forceinline__ RowMemory SharedRow(uint32_t cols) {
  auto* const sums = static_cast<float*>(DynamicShared());
  float* const totals = sums + kRowWarps;
  float* const row = totals + DivideUp(cols, kPanelColumns);
  return {sums, totals, row, row + RowPlace(cols)};
}

uint32_t LargestOrder(const HadamardView& transform) {
  uint32_t largest = 0;
  for (uint32_t f = 0; f < transform.factor_count; ++f) {
    const uint32_t order = transform.factors[f].order;
    largest = order > largest ? order : largest;
  }
  return largest;
}

size_t SharedBytes(uint32_t cols, uint32_t order) {
  return (kRowWarps + DivideUp(cols, kPanelColumns) + RowPlace(cols) + order * kFactorLanes) *
         sizeof(float);
}

// f(c) for the thread's columns, which are its own in every step that is not a transform.
template <typename Function>
__device__ __forceinline__ void ForOwnColumns(uint32_t cols, Function f) {
  for (uint32_t c = threadIdx.x; c < cols; c += kRowThreads) f(c);
}

__device__ __forceinline__ void LoadRow(const RowChain& chain, uint32_t t, float* row) {
  const uint32_t from = chain.gather == nullptr ? t : chain.gather[t];
  const float* const x = chain.x + static_cast<size_t>(from) * chain.x_stride;
  ForOwnColumns(chain.cols, [&](uint32_t c) {
    row[RowPlace(c)] = chain.swiglu ? Swiglu(x[c], x[chain.cols + c]) : x[c];
  });
}

__device__ __forceinline__ void NormalizeRow(const RowChain& chain, const RowMemory& memory) {
  float squares = 0;
  ForOwnColumns(chain.cols, [&](uint32_t c) {
    const float value = memory.row[RowPlace(c)];
    squares = __fmaf_rn(value, value, squares);
  });
  const float factor = NormFactor(squares, chain.cols, chain.norm_eps, memory.sums);
  ForOwnColumns(chain.cols, [&](uint32_t c) {
    memory.row[RowPlace(c)] = memory.row[RowPlace(c)] * factor * chain.norm[c];
  });
}

__global__ void __launch_bounds__(kRowThreads) ChainRow(RowChain chain) {
  const RowMemory memory = SharedRow(chain.cols);
  float* const row = memory.row;
  const uint32_t t = blockIdx.x;
  if (t < chain.rows) {
    LoadRow(chain, t, row);
    if (chain.output.cols != 0) TransformRow(chain.output, row, memory.vectors);
    if (chain.sum != nullptr) {
      float* const sum = chain.sum + static_cast<size_t>(t) * chain.sum_stride;
      ForOwnColumns(chain.cols, [&](uint32_t c) {
        sum[c] = row[RowPlace(c)] = __fadd_rn(sum[c], row[RowPlace(c)]);
      });
    }
    if (chain.norm != nullptr) NormalizeRow(chain, memory);
    if (chain.out != nullptr) {
      float* const out = chain.out + static_cast<size_t>(t) * chain.out_stride;
      ForOwnColumns(chain.cols, [&](uint32_t c) { out[c] = row[RowPlace(c)]; });
    }
    if (chain.input.cols != 0) TransformRow(chain.input, row, memory.vectors);
  }
  if (chain.activations.fragments == nullptr) return;
  __syncthreads();
  PrepareRow(
      chain.activations, t, chain.cols, [row](uint32_t column) { return row[RowPlace(column)]; },
      memory.totals);
}

// Blocks: (row, part).
__global__ void __launch_bounds__(kRowThreads)
    FinishPart(OutputParts parts, float* y, uint32_t stride) {
  const OutputPart& part = parts.parts[blockIdx.y];
  const RowMemory memory = SharedRow(part.cols);
  float* const at = y + static_cast<size_t>(blockIdx.x) * stride + part.first;
  ForOwnColumns(part.cols, [&](uint32_t c) { memory.row[RowPlace(c)] = at[c]; });
  if (part.transform.cols != 0) TransformRow(part.transform, memory.row, memory.vectors);
  ForOwnColumns(part.cols, [&](uint32_t c) {
    const float value = memory.row[RowPlace(c)];
    at[c] = part.bias == nullptr ? value : __fadd_rn(value, part.bias[c]);
  });
}

}  // namespace

const char* RunRowChain(const RowChain& chain, Stream stream) {
  if (chain.cols > kMostChainColumns) return "RunRowChain: too many columns";
  const bool prepares = chain.activations.fragments != nullptr;
  const uint32_t blocks = prepares ? DivideUp(chain.rows, kTokenTile) * kTokenTile : chain.rows;
  const uint32_t input_order = LargestOrder(chain.input);
  const uint32_t output_order = LargestOrder(chain.output);
  return LaunchKernel(
      blocks, kRowThreads,
      SharedBytes(chain.cols, input_order > output_order ? input_order : output_order), stream,
      ChainRow, chain);
}

const char* FinishOutputs(const OutputParts& parts, float* y, uint32_t stride, uint32_t rows,
                          Stream stream) {
  size_t shared_bytes = 0;
  for (uint32_t i = 0; i < parts.count; ++i) {
    const OutputPart& part = parts.parts[i];
    if (part.cols > kMostChainColumns) return "FinishOutputs: too many columns";
    const size_t bytes = SharedBytes(part.cols, LargestOrder(part.transform));
    shared_bytes = bytes > shared_bytes ? bytes : shared_bytes;
  }
  return LaunchKernel(dim3(rows, parts.count), kRowThreads, shared_bytes, stream, FinishPart, parts,
                      y, stride);
}

}  // namespace quantloom::cuda
