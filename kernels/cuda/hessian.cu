#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/hessian.h"

// A block computes a tile of 128 x 128 of H, a thread 8 x 8 of it: 64 multiply-adds for four loads
// of 16 bytes from shared memory. fp32 rather than tensor cores: TF32 keeps 11 of 24 bits, whose
// errors would be the Hessian's smallest eigenvalues and more; three TF32 products per one give the
// bits back at a third of that speed, in an order that is nobody's. At n = 14336 and 8192 tokens it
// is 8.4 * 10^11 multiply-adds, 25 ms of an H100 at its peak, beside minutes of trellis search.

namespace quantloom::cuda {
namespace {

constexpr uint32_t kTile = 128;
constexpr uint32_t kThreads = 256;      // 16 x 16
constexpr uint32_t kStep = 8;           // tokens in shared memory at a time
constexpr uint32_t kChunkTokens = 256;  // Hessian::kChunkTokens
static_assert(kChunkTokens % kStep == 0);

// Inputs of a step: of the tile's rows and of its columns.
struct Inputs {
  float rows[kStep][kTile];
  float columns[kStep][kTile];
};

// A thread's share of a step's inputs, on its way from global to shared memory. Missing tokens and
// columns are zeros, which leave sums as they are: x + 0 is x, but for x = -0, which no sum of
// products that began with +0 is.
struct Fetched {
  float rows[kStep / 2];
  float columns[kStep / 2];

  __device__ __forceinline__ void Load(const HessianUpdate& update, uint32_t token, uint32_t row,
                                       uint32_t column) {
    const uint32_t lane = threadIdx.x % kTile;
#pragma unroll
    for (uint32_t i = 0; i < kStep / 2; ++i) {
      const uint32_t t = token + threadIdx.x / kTile + 2 * i;
      const float* const x = update.inputs + static_cast<size_t>(t) * update.n;
      rows[i] = t < update.tokens && row + lane < update.n ? x[row + lane] : 0.0f;
      columns[i] = t < update.tokens && column + lane < update.n ? x[column + lane] : 0.0f;
    }
  }
  __device__ __forceinline__ void Store(Inputs& inputs) const {
#pragma unroll
    for (uint32_t i = 0; i < kStep / 2; ++i) {
      inputs.rows[threadIdx.x / kTile + 2 * i][threadIdx.x % kTile] = rows[i];
      inputs.columns[threadIdx.x / kTile + 2 * i][threadIdx.x % kTile] = columns[i];
    }
  }
};

// A thread's eight rows (columns) are two groups of four, 64 apart, so that the loads of eight
// neighbours are 128 consecutive bytes.
__device__ __forceinline__ uint32_t Place(uint32_t thread, uint32_t i) {
  return 4 * thread + i % 4 + i / 4 * (kTile / 2);
}

__device__ __forceinline__ void LoadEight(const float* from, uint32_t thread, float (&to)[8]) {
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const float4 four = *reinterpret_cast<const float4*>(from + Place(thread, 4 * half));
    to[4 * half] = four.x;
    to[4 * half + 1] = four.y;
    to[4 * half + 2] = four.z;
    to[4 * half + 3] = four.w;
  }
}

__global__ void __launch_bounds__(kThreads) SumProducts(HessianUpdate update) {
  if (blockIdx.x > blockIdx.y) return;                         // above the diagonal
  auto* const inputs = static_cast<Inputs*>(DynamicShared());  // two steps'
  const uint32_t row = blockIdx.y * kTile, column = blockIdx.x * kTile;
  const uint32_t thread_row = threadIdx.x / 16, thread_column = threadIdx.x % 16;
  Fetched fetched;
  fetched.Load(update, 0, row, column);
  uint32_t turn = 0;
  for (uint32_t chunk = 0; chunk < update.tokens; chunk += kChunkTokens) {
    float sums[8][8] = {};
    const uint32_t end = min(chunk + kChunkTokens, update.tokens);
    for (uint32_t token = chunk; token < end; token += kStep, turn ^= 1) {
      fetched.Store(inputs[turn]);
      __syncthreads();  // and who stores to the other half next has read it
      fetched.Load(update, token + kStep, row, column);
#pragma unroll
      for (uint32_t t = 0; t < kStep; ++t) {
        float rows[8], columns[8];
        LoadEight(inputs[turn].rows[t], thread_row, rows);
        LoadEight(inputs[turn].columns[t], thread_column, columns);
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) {
#pragma unroll
          for (uint32_t j = 0; j < 8; ++j) {
            sums[i][j] = __fmaf_rn(rows[i], columns[j], sums[i][j]);
          }
        }
      }
    }
    const bool replace = update.first && chunk == 0;
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t r = row + Place(thread_row, i);
      if (r >= update.n) continue;
      double* const to = update.sum + static_cast<size_t>(r) * update.n;
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) {
        const uint32_t c = column + Place(thread_column, j);
        if (c < update.n) to[c] = (replace ? 0.0 : to[c]) + static_cast<double>(sums[i][j]);
      }
    }
  }
}

}  // namespace

const char* AddToHessian(const HessianUpdate& update, Stream stream) {
  const uint32_t tiles = (update.n + kTile - 1) / kTile;
  return LaunchKernel(dim3(tiles, tiles), kThreads, 2 * sizeof(Inputs), stream, SumProducts,
                      update);
}

}  // namespace quantloom::cuda
