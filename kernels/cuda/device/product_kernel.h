// The product that all forms of matrices share: who computes what, in which order it is added. Few
// tokens are multiplied here, many in many_tokens_kernel.h, to the same bits. A form is a policy,
// `Weights`, that loads and decodes one warp's A operands:
//
//   View                        what it reads, with `rows` and `panels`
//   kForm                       of the activations
//   kRowTiles                   tiles of 16 rows of a block: B operands are made once for all
//   kSlabPanels                 panels whose codes are loaded at once, to have enough in flight
//   kPlanes                     matrices that the values are a sum of, 1 or 2
//   kPartSteps                  instructions for a part of the activations
//   Shared                      of a block; may be empty
//   Begin(w, row_tile, shared)                        once, by all threads; may use barriers
//   LoadSlab(w, row_tile, panel)                      by a warp, the panels from `panel` on
//   BeginPanel(p)                                     the slab's panel p
//   Decode(p, step, a)                                A operands of a step of panel p, for each
//                                                     row tile and plane; constant p and step
//   Operand(part, step, b)                            the B operand of the part's step
//   Multiply(d, a, b)                                 one instruction
//   Sum(d[plane], i)                                  an element of a panel's result
//   Finish(w, row, sum, total)                        the product's value
#pragma once

#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// A block's warps share the columns, slabs of panels in turn, and add their sums at the end.
constexpr uint32_t kProductWarps = 8;

template <typename Weights, uint32_t kTokenTiles>
union ProductShared {
  typename Weights::Shared weights;
  float sums[kProductWarps][kTokenTiles * kTokenTile][Weights::kRowTiles * kTileRows];
};

// Accumulators of a panel, or of all: row tiles, token tiles, elements.
template <typename Weights, uint32_t kTokenTiles, typename Element>
using ProductTile = Element[Weights::kRowTiles][kTokenTiles][4];

// One panel: sums += scale * (W x), the panel's products exact or in the tensor core's fp32.
// load(tile, part) is a lane's part of the activations of a token tile.
template <typename Weights, uint32_t kTokenTiles, typename Load>
__device__ __forceinline__ void MultiplyPanel(const Weights& weights, uint32_t p,
                                              const Activations& x, uint32_t panel,
                                              uint32_t first_tile, uint32_t token_tiles, Load load,
                                              ProductTile<Weights, kTokenTiles, float>& sums) {
  typename Weights::Accumulator d[Weights::kRowTiles][kTokenTiles][Weights::kPlanes][4] = {};
#pragma unroll
  for (uint32_t part = 0; part < PartsOfPanel(Weights::kForm); ++part) {
    uint4 b[kTokenTiles];
#pragma unroll
    for (uint32_t tile = 0; tile < kTokenTiles; ++tile) {
      if (kTokenTiles > 2 && tile >= token_tiles) break;
      b[tile] = load(tile, part);
    }
#pragma unroll
    for (uint32_t step = 0; step < Weights::kPartSteps; ++step) {
      uint32_t a[Weights::kRowTiles][Weights::kPlanes][4];
      weights.Decode(p, part * Weights::kPartSteps + step, a);
#pragma unroll
      for (uint32_t tile = 0; tile < kTokenTiles; ++tile) {
        if (kTokenTiles > 2 && tile >= token_tiles) break;
        uint32_t operand[2];
        Weights::Operand(b[tile], step, operand);
#pragma unroll
        for (uint32_t r = 0; r < Weights::kRowTiles; ++r) {
#pragma unroll
          for (uint32_t plane = 0; plane < Weights::kPlanes; ++plane) {
            Weights::Multiply(d[r][tile][plane], a[r][plane], operand);
          }
        }
      }
    }
  }
  const uint32_t padded_tokens = DivideUp(x.tokens, kTokenTile) * kTokenTile;
#pragma unroll
  for (uint32_t tile = 0; tile < kTokenTiles; ++tile) {
    if (kTokenTiles > 2 && tile >= token_tiles) break;
    const float2 scale =
        *reinterpret_cast<const float2*>(x.scales + static_cast<size_t>(panel) * padded_tokens +
                                         (first_tile + tile) * kTokenTile + 2 * (threadIdx.x % 4));
#pragma unroll
    for (uint32_t r = 0; r < Weights::kRowTiles; ++r) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        sums[r][tile][i] =
            __fmaf_rn(weights.Sum(d[r][tile], i), i % 2 == 0 ? scale.x : scale.y, sums[r][tile][i]);
      }
    }
  }
}

// A token tile's part of a panel: 32 lanes.
template <ActivationForm kForm>
__device__ __forceinline__ const uint4* PartOfTile(const Activations& x, uint32_t tile,
                                                   uint32_t panel, uint32_t part) {
  constexpr uint32_t kParts = PartsOfPanel(kForm);
  return reinterpret_cast<const uint4*>(x.fragments) +
         ((static_cast<size_t>(tile) * x.panels + panel) * kParts + part) * 32;
}

// Adds the warps' sums, in order, and writes the block's rows.
template <typename Weights, uint32_t kTokenTiles>
__device__ __forceinline__ void StoreProduct(const typename Weights::View& w, const Activations& x,
                                             uint32_t first_token,
                                             const ProductTile<Weights, kTokenTiles, float>& sums,
                                             ProductShared<Weights, kTokenTiles>& shared, float* y,
                                             uint32_t stride) {
  constexpr uint32_t kRows = Weights::kRowTiles * kTileRows;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t g = threadIdx.x % 32 / 4;
  const uint32_t t = threadIdx.x % 4;
  __syncthreads();  // the policy's shared memory is no longer read
#pragma unroll
  for (uint32_t r = 0; r < Weights::kRowTiles; ++r) {
#pragma unroll
    for (uint32_t tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        shared.sums[warp][tile * kTokenTile + 2 * t + i % 2]
                   [r * kTileRows + Weights::TileRow(g, i / 2)] = sums[r][tile][i];
      }
    }
  }
  __syncthreads();
  const uint32_t left = x.tokens - first_token;
  const uint32_t tokens = left < kTokenTiles * kTokenTile ? left : kTokenTiles * kTokenTile;
  for (uint32_t i = threadIdx.x; i < tokens * kRows; i += 32 * kProductWarps) {
    const uint32_t row = blockIdx.x * kRows + i % kRows;
    const uint32_t token = first_token + i / kRows;
    if (row >= w.rows) continue;
    float sum = 0;
#pragma unroll
    for (uint32_t other = 0; other < kProductWarps; ++other) {
      sum += shared.sums[other][i / kRows][i % kRows];
    }
    y[static_cast<size_t>(token) * stride + row] = Weights::Finish(w, row, sum, x, token);
  }
}

// Many tokens take more than the 128 registers of two blocks.
template <typename Weights, uint32_t kTokenTiles>
__global__ void __launch_bounds__(32 * kProductWarps, kTokenTiles > 2 ? 1 : 2)
    Product(typename Weights::View w, Activations x, uint32_t first_token, float* y,
            uint32_t stride) {
  auto& shared = *static_cast<ProductShared<Weights, kTokenTiles>*>(DynamicShared());
  const uint32_t row_tile = blockIdx.x * Weights::kRowTiles;
  const uint32_t first_tile = first_token / kTokenTile;
  const uint32_t all_tiles = DivideUp(x.tokens, kTokenTile);
  const uint32_t tiles_left = all_tiles - first_tile;
  const uint32_t token_tiles = tiles_left < kTokenTiles ? tiles_left : kTokenTiles;

  Weights weights;
  weights.Begin(w, row_tile, shared.weights);
  ProductTile<Weights, kTokenTiles, float> sums = {};
  constexpr uint32_t kSlab = Weights::kSlabPanels;
  for (uint32_t slab = threadIdx.x / 32 * kSlab; slab < w.panels; slab += kProductWarps * kSlab) {
    weights.LoadSlab(w, row_tile, slab);
#pragma unroll
    for (uint32_t p = 0; p < kSlab; ++p) {
      if (slab + p >= w.panels) break;
      weights.BeginPanel(p);
      const auto load = [&](uint32_t tile, uint32_t part) {
        return PartOfTile<Weights::kForm>(x, first_tile + tile, slab + p, part)[threadIdx.x % 32];
      };
      MultiplyPanel<Weights, kTokenTiles>(weights, p, x, slab + p, first_tile, token_tiles, load,
                                          sums);
    }
  }
  StoreProduct<Weights, kTokenTiles>(w, x, first_token, sums, shared, y, stride);
}

// A part of a lane's activations has two steps' B operands.
struct TwoStepParts {
  static constexpr uint32_t kPartSteps = 2;
  static __device__ __forceinline__ void Operand(const uint4& part, uint32_t step,
                                                 uint32_t (&b)[2]) {
    b[0] = step == 0 ? part.x : part.z;
    b[1] = step == 0 ? part.y : part.w;
  }
};

// What the forms on int8 share: products in int32.
struct Int8Weights : TwoStepParts {
  static constexpr ActivationForm kForm = ActivationForm::kInt8;
  using Accumulator = int;

  static __device__ __forceinline__ void Multiply(int (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    MultiplyInt8(d, a, b);
  }
};

// What the forms on fp16 share: products in the tensor core's fp32.
struct HalfWeights : TwoStepParts {
  static constexpr ActivationForm kForm = ActivationForm::kHalf;
  using Accumulator = float;

  static __device__ __forceinline__ void Multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    MultiplyHalf(d, a, b);
  }
};

// Forms with one plane and the tile's rows in the instruction's order.
struct OnePlane {
  static constexpr uint32_t kPlanes = 1;
  static __device__ __forceinline__ uint32_t TileRow(uint32_t g, uint32_t half) {
    return g + 8 * half;
  }
  static __device__ __forceinline__ float Sum(const int (&d)[1][4], uint32_t i) {
    return __int2float_rn(d[0][i]);
  }
  static __device__ __forceinline__ float Sum(const float (&d)[1][4], uint32_t i) {
    return d[0][i];
  }
};

// Forms with a scale and an offset for each row.
template <typename ViewType>
struct ScaleAndOffset {
  static __device__ __forceinline__ float Finish(const ViewType& w, uint32_t row, float sum,
                                                 const Activations& x, uint32_t token) {
    return __fmaf_rn(w.offsets[row], x.totals[token], w.scales[row] * sum);
  }
};

}  // namespace quantloom::cuda
