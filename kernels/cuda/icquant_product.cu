#include "kernels/cuda/device/icquant_decode.h"
#include "kernels/cuda/icquant_product.h"

namespace quantloom::cuda {
namespace {

// A block has one tile of 16 rows; its warps share the columns, slabs of two segments in turn.
constexpr uint32_t kWarps = 8;
constexpr uint32_t kSlabSegments = 2;
constexpr uint32_t kSegmentPanels = kSegmentColumns / kPanelColumns;
constexpr uint32_t kSlabPanels = kSlabSegments * kSegmentPanels;
constexpr uint32_t kTokenTiles = kProductTokens / kTokenTile;

struct Shared {
  SegmentBitmap bitmaps[kWarps][kSlabSegments];
  float sums[kWarps][kTileRows][kProductTokens];
};

template <int kBits, bool kOutliers>
struct RowPair {
  CentroidTable<kBits, kOutliers> tables[2];  // of rows g and g + 8

  // The A fragment of a step.
  template <int kStep>
  __device__ __forceinline__ void Fragment(const PanelCodes<kBits>& codes,
                                           const uint32_t (&outliers)[2], uint32_t (&a)[4]) const {
    Half<kStep, 0>(codes, outliers, a);
    Half<kStep, 1>(codes, outliers, a);
  }

 private:
  template <int kStep, int kHalf>
  __device__ __forceinline__ void Half(const PanelCodes<kBits>& codes,
                                       const uint32_t (&outliers)[2], uint32_t (&a)[4]) const {
    const uint32_t row = codes.template Row<kStep, kHalf>();
    const uint32_t bits = kOutliers ? outliers[kHalf] >> kStep & 0x11111111u : 0;
    a[kHalf] = tables[kHalf].Decode(row & 0xFFFFu, bits & 0xFFFFu);
    a[2 + kHalf] = tables[kHalf].Decode(row >> 16, bits >> 16);
  }
};

// Fragments of the activations of a token tile in one panel: steps 0..3.
struct PanelActivations {
  uint32_t words[kPanelSteps][2];

  __device__ __forceinline__ void Load(const Int8ActivationsView& x, uint32_t token, uint32_t panel,
                                       uint32_t t) {
    const int8_t* const codes =
        x.codes + (static_cast<size_t>(token) * x.panels + panel) * kPanelColumns + t * 32;
    const uint4 low = *reinterpret_cast<const uint4*>(codes);
    const uint4 high = *reinterpret_cast<const uint4*>(codes + 16);
    words[0][0] = low.x;
    words[0][1] = low.y;
    words[1][0] = low.z;
    words[1][1] = low.w;
    words[2][0] = high.x;
    words[2][1] = high.y;
    words[3][0] = high.z;
    words[3][1] = high.w;
  }
};

template <int kBits, bool kOutliers, uint32_t kTiles>
__global__ void __launch_bounds__(32 * kWarps)
    IcquantProduct(IcquantView w, Int8ActivationsView x, uint32_t first_token, float* y,
                   uint32_t stride) {
  Shared& shared = *static_cast<Shared*>(DynamicShared());
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t g = lane / 4;
  const uint32_t t = lane % 4;
  const uint32_t row_tile = blockIdx.x;
  const uint32_t padded_tokens = DivideUp(x.tokens, kTokenTile) * kTokenTile;

  RowPair<kBits, kOutliers> rows;
  rows.tables[0].Load(w, row_tile * kTileRows + g);
  rows.tables[1].Load(w, row_tile * kTileRows + g + 8);

  float sums[kTiles][4] = {};
  constexpr uint32_t kPanelWords = 32 * PanelWords(kBits);
  const uint32_t* const tile_codes =
      w.codes + static_cast<size_t>(row_tile) * w.panels * kPanelWords;
  for (uint32_t slab = warp; slab * kSlabPanels < w.panels; slab += kWarps) {
    PanelCodes<kBits> codes[kSlabPanels];
#pragma unroll
    for (uint32_t p = 0; p < kSlabPanels; ++p) {
      const uint32_t panel = slab * kSlabPanels + p;
      if (panel < w.panels)
        codes[p].Load(tile_codes + static_cast<size_t>(panel) * kPanelWords, lane);
    }
    if constexpr (kOutliers) {
      __syncwarp();
      ExpandOutliers(w, row_tile, slab * kSlabSegments, shared.bitmaps[warp]);
      __syncwarp();
    }
#pragma unroll
    for (uint32_t p = 0; p < kSlabPanels; ++p) {
      const uint32_t panel = slab * kSlabPanels + p;
      if (panel >= w.panels) break;
      uint32_t outliers[2] = {};
      if constexpr (kOutliers) {
        const SegmentBitmap& bitmap = shared.bitmaps[warp][p / kSegmentPanels];
        outliers[0] = bitmap.words[g][p % kSegmentPanels * 4 + t];
        outliers[1] = bitmap.words[g + 8][p % kSegmentPanels * 4 + t];
      }
      uint32_t a[kPanelSteps][4];
      rows.template Fragment<0>(codes[p], outliers, a[0]);
      rows.template Fragment<1>(codes[p], outliers, a[1]);
      rows.template Fragment<2>(codes[p], outliers, a[2]);
      rows.template Fragment<3>(codes[p], outliers, a[3]);
#pragma unroll
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        PanelActivations b;
        b.Load(x, first_token + tile * kTokenTile + g, panel, t);
        int d[4] = {};
#pragma unroll
        for (uint32_t step = 0; step < kPanelSteps; ++step) MultiplyInt8(d, a[step], b.words[step]);
        const float2 scale =
            *reinterpret_cast<const float2*>(x.scales + static_cast<size_t>(panel) * padded_tokens +
                                             first_token + tile * kTokenTile + 2 * t);
        sums[tile][0] = __fmaf_rn(__int2float_rn(d[0]), scale.x, sums[tile][0]);
        sums[tile][1] = __fmaf_rn(__int2float_rn(d[1]), scale.y, sums[tile][1]);
        sums[tile][2] = __fmaf_rn(__int2float_rn(d[2]), scale.x, sums[tile][2]);
        sums[tile][3] = __fmaf_rn(__int2float_rn(d[3]), scale.y, sums[tile][3]);
      }
    }
  }

#pragma unroll
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      shared.sums[warp][g + (i < 2 ? 0 : 8)][tile * kTokenTile + 2 * t + i % 2] = sums[tile][i];
    }
  }
  __syncthreads();
  // A thread for each row and token.
  static_assert(kTileRows * kProductTokens == 32 * kWarps);
  const uint32_t row = row_tile * kTileRows + threadIdx.x % kTileRows;
  const uint32_t token = first_token + threadIdx.x / kTileRows;
  if (row >= w.rows || token >= x.tokens || token >= first_token + kTiles * kTokenTile) return;
  float sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < kWarps; ++i) {
    sum += shared.sums[i][threadIdx.x % kTileRows][threadIdx.x / kTileRows];
  }
  y[static_cast<size_t>(token) * stride + row] =
      __fmaf_rn(w.offsets[row], x.totals[token], w.scales[row] * sum);
}

template <int kBits, bool kOutliers>
const char* Multiply(const IcquantView& w, const Int8ActivationsView& x, float* y, uint32_t stride,
                     Stream stream) {
  const uint32_t row_tiles = DivideUp(w.rows, kTileRows);
  for (uint32_t token = 0; token < x.tokens; token += kProductTokens) {
    const bool one_tile = x.tokens - token <= kTokenTile;
    if (const char* error = LaunchKernel(row_tiles, 32 * kWarps, sizeof(Shared), stream,
                                         one_tile ? IcquantProduct<kBits, kOutliers, 1>
                                                  : IcquantProduct<kBits, kOutliers, kTokenTiles>,
                                         w, x, token, y, stride)) {
      return error;
    }
  }
  return nullptr;
}

}  // namespace

const char* MultiplyIcquant(const IcquantView& w, int bits, bool outliers,
                            const Int8ActivationsView& x, float* y, uint32_t stride,
                            Stream stream) {
  using Function =
      const char* (*)(const IcquantView&, const Int8ActivationsView&, float*, uint32_t, Stream);
  static constexpr Function kFunctions[2][4] = {
      {Multiply<1, false>, Multiply<2, false>, Multiply<3, false>, Multiply<4, false>},
      {Multiply<1, true>, Multiply<2, true>, Multiply<3, true>, Multiply<4, true>}};
  if (bits < 1 || bits > 4) return "MultiplyIcquant: bits must be 1 to 4";
  return kFunctions[outliers ? 1 : 0][bits - 1](w, x, y, stride, stream);
}

}  // namespace quantloom::cuda
