// Products with QTIP's tiles: the forms of product_kernel.h.
#pragma once

#include "kernels/cuda/device/expand_kernel.h"
#include "kernels/cuda/device/launch_product.h"
#include "kernels/cuda/device/product_kernel.h"
#include "kernels/cuda/device/trellis_decode.h"

namespace quantloom::cuda {

// What the codes share. Rows of a tile are taken in pairs, 2 g and 2 g + 1, which follow each other
// in its ring.
template <uint32_t kHalfBits>
struct TrellisTiles {
  using View = TrellisView;
  static constexpr uint32_t kRowTiles = 2;
  static constexpr uint32_t kSlabPanels = kHalfBits <= 4 ? 2 : 1;  // 64 bytes a lane and more
  static constexpr uint32_t kPlanes = 1;

  uint32_t stored[kSlabPanels][kRowTiles][kHalfBits];
  TrellisStreams<kHalfBits> streams[kRowTiles];

  static __device__ __forceinline__ uint32_t TileRow(uint32_t g, uint32_t half) {
    return 2 * g + half;
  }

  __device__ __forceinline__ void LoadSlab(const View& w, uint32_t row_tile, uint32_t panel) {
    const uint32_t row_tiles = DivideUp(w.rows, kTileRows);
#pragma unroll
    for (uint32_t p = 0; p < kSlabPanels; ++p) {
#pragma unroll
      for (uint32_t r = 0; r < kRowTiles; ++r) {
        // What is past the matrix's end is multiplied, but not stored.
        if (panel + p >= w.panels || row_tile + r >= row_tiles) {
#pragma unroll
          for (uint32_t i = 0; i < kHalfBits; ++i) stored[p][r][i] = 0;
          continue;
        }
        LoadLaneWords(
            w.codes + (static_cast<size_t>(row_tile + r) * w.panels + panel + p) * 32 * kHalfBits,
            stored[p][r]);
      }
    }
  }

  __device__ __forceinline__ void BeginPanel(uint32_t p) {
#pragma unroll
    for (uint32_t r = 0; r < kRowTiles; ++r) streams[r].Complete(stored[p][r]);
  }
};

// 1MAD and MUL1: the bytes of state * multiplier + addend, to be added and less 510.
template <uint32_t kHalfBits>
struct ByteSumWeights : TrellisTiles<kHalfBits> {
  using View = TrellisView;
  static constexpr ActivationForm kForm = ActivationForm::kInt8;
  static constexpr uint32_t kPartSteps = 8;  // of two columns, four bytes each
  using Accumulator = int;
  struct Shared {};

  uint32_t multiplier;
  uint32_t addend;

  __device__ __forceinline__ void Begin(const View& w, uint32_t, Shared&) {
    const bool is_1mad = w.code == TrellisCode::k1Mad;
    multiplier = is_1mad ? k1MadMultiplier : kMul1Multiplier;
    addend = is_1mad ? k1MadAddend : 0u;
  }

  __device__ __forceinline__ void Decode(uint32_t, uint32_t step, uint32_t (&a)[2][1][4]) const {
#pragma unroll
    for (uint32_t r = 0; r < 2; ++r) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        a[r][0][i] = this->streams[r].State(i % 2, 2 * step + i / 2) * multiplier + addend;
      }
    }
  }

  // Two activations, each as often as a state has bytes.
  static __device__ __forceinline__ void Operand(const uint4& part, uint32_t step,
                                                 uint32_t (&b)[2]) {
    const uint32_t word = step < 4 ? (step < 2 ? part.x : part.y) : (step < 6 ? part.z : part.w);
    b[0] = __byte_perm(word, 0, step % 2 == 0 ? 0x0000 : 0x2222);
    b[1] = __byte_perm(word, 0, step % 2 == 0 ? 0x1111 : 0x3333);
  }
  static __device__ __forceinline__ void Multiply(int (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
    MultiplyUnsigned8(d, a, b);
  }
  // At most 128 * 1020 * 127 < 2^24: exact.
  static __device__ __forceinline__ float Sum(const int (&d)[1][4], uint32_t i) {
    return __int2float_rn(d[0][i]);
  }
  static __device__ __forceinline__ float Finish(const View& w, uint32_t row, float sum,
                                                 const Activations& x, uint32_t token) {
    return w.scales[row] * __fmaf_rn(-510.0f, x.totals[token], sum);
  }
};

// The codes whose values are fp16.
template <uint32_t kHalfBits>
struct HalfTrellisWeights : TrellisTiles<kHalfBits>, HalfWeights {
  using View = TrellisView;
  static __device__ __forceinline__ float Sum(const float (&d)[1][4], uint32_t i) {
    return d[0][i];
  }
  static __device__ __forceinline__ float Finish(const View& w, uint32_t row, float sum,
                                                 const Activations&, uint32_t) {
    return w.scales[row] * sum;
  }
};

template <uint32_t kHalfBits>
struct ThreeInstWeights : HalfTrellisWeights<kHalfBits> {
  using View = TrellisView;
  struct Shared {};
  __device__ __forceinline__ void Begin(const View&, uint32_t, Shared&) {}
  __device__ __forceinline__ void Decode(uint32_t, uint32_t step, uint32_t (&a)[2][1][4]) const {
#pragma unroll
    for (uint32_t r = 0; r < 2; ++r) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t column = 4 * step + i / 2 * 2;
        a[r][0][i] = Decode3Inst(this->streams[r].State(i % 2, column),
                                 this->streams[r].State(i % 2, column + 1));
      }
    }
  }
};

template <uint32_t kHalfBits>
struct HybWeights : HalfTrellisWeights<kHalfBits> {
  using View = TrellisView;
  using Shared = HybTable;
  const HybTable* table;

  __device__ __forceinline__ void Begin(const View& w, uint32_t, Shared& shared) {
    shared.Load(w.table);
    __syncthreads();
    table = &shared;
  }
  __device__ __forceinline__ void Decode(uint32_t, uint32_t step, uint32_t (&a)[2][1][4]) const {
#pragma unroll
    for (uint32_t r = 0; r < 2; ++r) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        a[r][0][i] = table->Decode(this->streams[r].State(i % 2, 4 * step + i / 2 * 2));
      }
    }
  }
};

// Calls launch.operator()<Weights>() with the weights of the matrix's rate.
template <template <uint32_t> typename Weights, typename Launch>
const char* WithTrellisRate(const TrellisView& w, Launch launch) {
  switch (w.half_bits) {
    case 2:
      return launch.template operator()<Weights<2>>();
    case 3:
      return launch.template operator()<Weights<3>>();
    case 4:
      return launch.template operator()<Weights<4>>();
    case 5:
      return launch.template operator()<Weights<5>>();
    case 6:
      return launch.template operator()<Weights<6>>();
    case 7:
      return launch.template operator()<Weights<7>>();
    case 8:
      return launch.template operator()<Weights<8>>();
    default:
      return "QTIP's bits must be 1 to 4 in steps of 0.5";
  }
}

template <template <uint32_t> typename Weights>
const char* MultiplyTrellisRate(const TrellisView& w, const Activations& x, float* y,
                                uint32_t stride, Stream stream) {
  return WithTrellisRate<Weights>(
      w, [&]<typename OfRate>() { return LaunchProduct<OfRate>(w, x, y, stride, stream); });
}

template <template <uint32_t> typename Weights>
const char* ExpandTrellisRate(const TrellisView& w, uint32_t first_row, uint32_t rows,
                              uint16_t* out, Stream stream) {
  return WithTrellisRate<Weights>(
      w, [&]<typename OfRate>() { return LaunchExpand<OfRate>(w, first_row, rows, out, stream); });
}

}  // namespace quantloom::cuda
