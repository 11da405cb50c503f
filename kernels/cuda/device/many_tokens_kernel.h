// The product with many tokens (prefill). Where product_kernel.h shares a tile of rows among a
// block's warps, and every block reads all activations, here each warp has row tiles of its own,
// and the block's warps share activations that are copied to shared memory, a panel ahead: 8 times
// fewer reads of them. Weights are decoded once for 64 tokens.
//
// Sums have the same order: a warp takes the panels that the first of Product's warps would, adds
// them up, then those of the second, and so on.
#pragma once

#include "kernels/cuda/device/product_kernel.h"

namespace quantloom::cuda {

constexpr uint32_t kPassTiles = 8;

template <typename Weights>
struct ManyTokensShared {
  static constexpr uint32_t kParts = PartsOfPanel(Weights::kForm);
  static constexpr uint32_t kLaneSums = Weights::kRowTiles * kPassTiles * 4;
  uint4 operands[2][kPassTiles][kParts][32];  // of a panel, and of the next
  float totals[kProductWarps][kLaneSums][32];
  typename Weights::Shared weights;
};

// A panel, and which of Product's warps takes it.
template <typename Weights>
struct PanelTurn {
  uint32_t warp;
  uint32_t panel;

  __device__ __forceinline__ bool Exists(uint32_t panels) const {
    return warp < kProductWarps && panel < panels;
  }
  __device__ __forceinline__ PanelTurn Next(uint32_t panels) const {
    constexpr uint32_t kSlab = Weights::kSlabPanels;
    if ((panel + 1) % kSlab != 0 && panel + 1 < panels) return {warp, panel + 1};
    const uint32_t slab = panel / kSlab * kSlab + kProductWarps * kSlab;
    return slab < panels ? PanelTurn{warp, slab} : PanelTurn{warp + 1, (warp + 1) * kSlab};
  }
};

// Starts copying a panel's activations; all threads of the block take part.
template <typename Weights>
__device__ __forceinline__ void CopyOperands(const Activations& x, uint32_t first_tile,
                                             uint32_t token_tiles, uint32_t panel,
                                             uint4 (*operands)[PartsOfPanel(Weights::kForm)][32]) {
  constexpr uint32_t kParts = PartsOfPanel(Weights::kForm);
  for (uint32_t i = threadIdx.x; i < token_tiles * kParts * 32; i += 32 * kProductWarps) {
    const uint32_t tile = i / (kParts * 32);
    const uint32_t part = i / 32 % kParts;
    CopyAsync16(&operands[tile][part][i % 32],
                PartOfTile<Weights::kForm>(x, first_tile + tile, panel, part) + i % 32);
  }
  CommitCopies();
}

// Adds one of Product's warps' sums to the totals.
template <typename Weights>
__device__ __forceinline__ void AddSums(const ProductTile<Weights, kPassTiles, float>& sums,
                                        bool first, float (*totals)[32]) {
#pragma unroll
  for (uint32_t r = 0; r < Weights::kRowTiles; ++r) {
#pragma unroll
    for (uint32_t tile = 0; tile < kPassTiles; ++tile) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        float& total = totals[(r * kPassTiles + tile) * 4 + i][threadIdx.x % 32];
        total = (first ? 0.0f : total) + sums[r][tile][i];
      }
    }
  }
}

template <typename Weights>
__device__ __forceinline__ void StoreTotals(const typename Weights::View& w, const Activations& x,
                                            uint32_t row_tile, uint32_t first_token,
                                            const float (*totals)[32], float* y, uint32_t stride) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t n = 0; n < ManyTokensShared<Weights>::kLaneSums; ++n) {
    const uint32_t i = n % 4;
    const uint32_t tile = n / 4 % kPassTiles;
    const uint32_t r = n / 4 / kPassTiles;
    const uint32_t row = (row_tile + r) * kTileRows + Weights::TileRow(lane / 4, i / 2);
    const uint32_t token = first_token + tile * kTokenTile + 2 * (lane % 4) + i % 2;
    if (row >= w.rows || token >= x.tokens) continue;
    y[static_cast<size_t>(token) * stride + row] =
        Weights::Finish(w, row, totals[n][lane], x, token);
  }
}

// blockIdx.x: rows; blockIdx.y: 64 tokens.
template <typename Weights>
__global__ void __launch_bounds__(32 * kProductWarps, 1)
    ManyTokensProduct(typename Weights::View w, Activations x, float* y, uint32_t stride) {
  auto& shared = *static_cast<ManyTokensShared<Weights>*>(DynamicShared());
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t row_tiles = DivideUp(w.rows, kTileRows);
  const uint32_t row_tile = (blockIdx.x * kProductWarps + warp) * Weights::kRowTiles;
  const bool has_rows = row_tile < row_tiles;
  const uint32_t first_tile = blockIdx.y * kPassTiles;
  const uint32_t tiles_left = DivideUp(x.tokens, kTokenTile) - first_tile;
  const uint32_t token_tiles = tiles_left < kPassTiles ? tiles_left : kPassTiles;

  Weights weights;
  weights.Begin(w, has_rows ? row_tile : 0, shared.weights);
  constexpr uint32_t kSlab = Weights::kSlabPanels;
  uint32_t buffer = 0;
  CopyOperands<Weights>(x, first_tile, token_tiles, 0, shared.operands[0]);
  for (uint32_t turn = 0; turn < kProductWarps; ++turn) {
    ProductTile<Weights, kPassTiles, float> sums = {};
    for (uint32_t slab = turn * kSlab; slab < w.panels; slab += kProductWarps * kSlab) {
      if (has_rows) weights.LoadSlab(w, row_tile, slab);
#pragma unroll
      for (uint32_t p = 0; p < kSlab; ++p) {
        if (slab + p >= w.panels) break;
        WaitForCopies<0>();
        __syncthreads();  // the panel is there, and nobody reads the one before it
        const auto next = PanelTurn<Weights>{turn, slab + p}.Next(w.panels);
        if (next.Exists(w.panels)) {
          CopyOperands<Weights>(x, first_tile, token_tiles, next.panel,
                                shared.operands[1 - buffer]);
        }
        if (has_rows) {
          weights.BeginPanel(p);
          const auto load = [&](uint32_t tile, uint32_t part) {
            return shared.operands[buffer][tile][part][threadIdx.x % 32];
          };
          MultiplyPanel<Weights, kPassTiles>(weights, p, x, slab + p, first_tile, token_tiles, load,
                                             sums);
        }
        buffer = 1 - buffer;
      }
    }
    AddSums<Weights>(sums, turn == 0, shared.totals[warp]);
  }
  if (!has_rows) return;
  StoreTotals<Weights>(w, x, row_tile, first_tile * kTokenTile, shared.totals[warp], y, stride);
}

}  // namespace quantloom::cuda
