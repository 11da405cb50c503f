// A stored matrix's values in fp16, for libraries that multiply dense matrices. A panel of W is its
// product with 128 tokens of which token c is 1 in column c and 0 elsewhere: so whatever the form,
// it is decoded by the code that multiplies with it.
#pragma once

#include "kernels/cuda/device/product_kernel.h"

namespace quantloom::cuda {

// Tokens of a turn; a panel takes two.
constexpr uint32_t kExpandTiles = 8;
// Blocks that share the panels of their rows.
constexpr uint32_t kExpandSplits = 4;

template <typename Weights>
struct ExpandShared {
  typename Weights::Shared weights;
  alignas(float2) float ones[kExpandTiles * kTokenTile];  // scales of the tokens, and their sums
};

// A lane's part of the token tile whose tokens are 1 in columns 8 tile .. 8 tile + 7 of a panel.
template <ActivationForm kForm>
__device__ __forceinline__ uint4 UnitPart(uint32_t tile, uint32_t part) {
  constexpr uint32_t kPartColumns = kLaneColumns / PartsOfPanel(kForm);
  constexpr uint32_t kElementBytes = ActivationElementBytes(kForm);
  constexpr uint32_t kOne = kForm == ActivationForm::kInt8 ? 1 : 0x3C00;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t first = lane % 4 * kLaneColumns + part * kPartColumns;
  const uint32_t element = tile * kTokenTile + lane / 4 - first;  // wraps where it is before
  const uint32_t byte = element < kPartColumns ? element * kElementBytes : 16;
  const uint32_t word = kOne << (byte % 4 * 8);
  return make_uint4(byte / 4 == 0 ? word : 0, byte / 4 == 1 ? word : 0, byte / 4 == 2 ? word : 0,
                    byte / 4 == 3 ? word : 0);
}

// out [rows, 128 panels] fp16: rows first_row (a multiple of 32) and on.
template <typename Weights>
__global__ void __launch_bounds__(32 * kProductWarps, 1)
    Expand(typename Weights::View w, uint32_t first_row, uint32_t rows, uint16_t* out) {
  auto& shared = *static_cast<ExpandShared<Weights>*>(DynamicShared());
  const uint32_t row_tile = first_row / kTileRows + blockIdx.x * Weights::kRowTiles;
  const uint32_t g = threadIdx.x % 32 / 4;
  const uint32_t t = threadIdx.x % 4;
  if (threadIdx.x < kExpandTiles * kTokenTile) shared.ones[threadIdx.x] = 1;
  Weights weights;
  weights.Begin(w, row_tile, shared.weights);
  __syncthreads();
  Activations units = {};
  units.tokens = kExpandTiles * kTokenTile;
  units.scales = shared.ones;
  units.totals = shared.ones;

  constexpr uint32_t kSlab = Weights::kSlabPanels;
  const uint32_t warp = blockIdx.y * kProductWarps + threadIdx.x / 32;
  for (uint32_t slab = warp * kSlab; slab < w.panels;
       slab += kExpandSplits * kProductWarps * kSlab) {
    weights.LoadSlab(w, row_tile, slab);
#pragma unroll
    for (uint32_t p = 0; p < kSlab; ++p) {
      if (slab + p >= w.panels) break;
      weights.BeginPanel(p);
      for (uint32_t turn = 0; turn < kPanelColumns / (kExpandTiles * kTokenTile); ++turn) {
        const auto load = [&](uint32_t tile, uint32_t part) {
          return UnitPart<Weights::kForm>(turn * kExpandTiles + tile, part);
        };
        ProductTile<Weights, kExpandTiles, float> values = {};
        MultiplyPanel<Weights, kExpandTiles>(weights, p, units, /*panel=*/0, /*first_tile=*/0,
                                             kExpandTiles, load, values);
#pragma unroll
        for (uint32_t r = 0; r < Weights::kRowTiles; ++r) {
#pragma unroll
          for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t row = (row_tile + r) * kTileRows + Weights::TileRow(g, half);
            if (row >= w.rows || row - first_row >= rows) continue;
            __half2* const to = reinterpret_cast<__half2*>(
                out + (static_cast<size_t>(row - first_row) * w.panels + slab + p) * kPanelColumns);
#pragma unroll
            for (uint32_t tile = 0; tile < kExpandTiles; ++tile) {
              const uint32_t column = (turn * kExpandTiles + tile) * kTokenTile + 2 * t;
              to[column / 2] = __floats2half2_rn(
                  Weights::Finish(w, row, values[r][tile][2 * half], units, 0),
                  Weights::Finish(w, row, values[r][tile][2 * half + 1], units, 0));
            }
          }
        }
      }
    }
  }
}

template <typename Weights>
const char* LaunchExpand(const typename Weights::View& w, uint32_t first_row, uint32_t rows,
                         uint16_t* out, Stream stream) {
  return LaunchKernel(dim3(DivideUp(rows, kTileRows * Weights::kRowTiles), kExpandSplits),
                      32 * kProductWarps, sizeof(ExpandShared<Weights>), stream, Expand<Weights>, w,
                      first_row, rows, out);
}

}  // namespace quantloom::cuda
