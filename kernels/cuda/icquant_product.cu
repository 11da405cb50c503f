// Products with ICQuant's codes of 1 to 4 bits.
#include "kernels/cuda/device/expand_kernel.h"
#include "kernels/cuda/device/icquant_decode.h"
#include "kernels/cuda/device/lane_words.h"
#include "kernels/cuda/device/launch_product.h"
#include "kernels/cuda/device/product_kernel.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {
namespace {

// What both forms of levels share: codes and outlier bits.
template <int kBits, bool kOutliers>
struct IcquantCodes : OnePlane {
  using View = IcquantView;
  static constexpr uint32_t kRowTiles = 1;
  static constexpr uint32_t kSegmentPanels = kSegmentColumns / kPanelColumns;
  static constexpr uint32_t kSlabSegments = 2;  // what a warp expands at once
  static constexpr uint32_t kSlabPanels = kSlabSegments * kSegmentPanels;
  struct WithOutliers {
    SegmentBitmap bitmaps[kProductWarps][kSlabSegments];
  };
  struct WithoutOutliers {};
  using Shared = std::conditional_t<kOutliers, WithOutliers, WithoutOutliers>;

  PanelCodes<kBits> codes[kSlabPanels];
  uint32_t outliers[2];  // of the panel, of rows g and g + 8
  SegmentBitmap* bitmaps;

  __device__ __forceinline__ void LoadSlab(const View& w, uint32_t row_tile, uint32_t panel) {
    constexpr uint32_t kWords = 32 * PanelWords(kBits);
    const uint32_t* const first =
        w.codes + (static_cast<size_t>(row_tile) * w.panels + panel) * kWords;
#pragma unroll
    for (uint32_t p = 0; p < kSlabPanels; ++p) {
      if (panel + p < w.panels) LoadLaneWords(first + p * kWords, codes[p].words);
    }
    if constexpr (kOutliers) {
      __syncwarp();
      ExpandOutliers(w, row_tile, panel / kSegmentPanels, bitmaps);
      __syncwarp();
    }
  }

  __device__ __forceinline__ void BeginPanel(uint32_t p) {
    if constexpr (kOutliers) {
      const SegmentBitmap& bitmap = bitmaps[p / kSegmentPanels];
      const uint32_t g = threadIdx.x % 32 / 4;
      const uint32_t word = p % kSegmentPanels * 4 + threadIdx.x % 4;
      outliers[0] = bitmap.words[g][word];
      outliers[1] = bitmap.words[g + 8][word];
    }
  }

  // Eight codes of row g or g + 8, and their outlier bits: a nibble each.
  __device__ __forceinline__ uint32_t Eight(uint32_t p, uint32_t eight, uint32_t half) const {
    return codes[p].Row(eight, half);
  }
  __device__ __forceinline__ uint32_t Outliers(uint32_t eight, uint32_t half) const {
    return kOutliers ? outliers[half] >> eight & 0x11111111u : 0;
  }
};

// Levels in int8, with a scale and an offset for each row.
template <int kBits, bool kOutliers>
struct IcquantWeights : IcquantCodes<kBits, kOutliers>, Int8Weights, ScaleAndOffset<IcquantView> {
  using Base = IcquantCodes<kBits, kOutliers>;
  CentroidTable<kBits, kOutliers> tables[2];  // of rows g and g + 8

  __device__ __forceinline__ void Begin(const IcquantView& w, uint32_t row_tile,
                                        typename Base::Shared& shared) {
    const uint32_t row = row_tile * kTileRows + threadIdx.x % 32 / 4;
    tables[0].Load(w, row, 0);
    tables[1].Load(w, row + 8, 0);
    if constexpr (kOutliers) this->bitmaps = shared.bitmaps[threadIdx.x / 32];
  }

  __device__ __forceinline__ void Decode(uint32_t p, uint32_t step, uint32_t (&a)[1][1][4]) const {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t row = Base::Eight(p, step, half);
      const uint32_t bits = Base::Outliers(step, half);
      a[0][0][half] = tables[half].Decode(row & 0xFFFFu, bits & 0xFFFFu);
      a[0][0][2 + half] = tables[half].Decode(row >> 16, bits >> 16);
    }
  }
};

// Levels in fp16, a table of their low bytes and one of their high bytes.
template <int kBits, bool kOutliers>
struct IcquantHalfWeights : IcquantCodes<kBits, kOutliers>, HalfWeights {
  using Base = IcquantCodes<kBits, kOutliers>;
  CentroidTable<kBits, kOutliers> low[2];  // of rows g and g + 8
  CentroidTable<kBits, kOutliers> high[2];

  __device__ __forceinline__ void Begin(const IcquantView& w, uint32_t row_tile,
                                        typename Base::Shared& shared) {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t row = row_tile * kTileRows + threadIdx.x % 32 / 4 + 8 * half;
      low[half].Load(w, row, 0);
      high[half].Load(w, row, CentroidWords(kBits, kOutliers));
    }
    if constexpr (kOutliers) this->bitmaps = shared.bitmaps[threadIdx.x / 32];
  }

  // Four columns a step.
  __device__ __forceinline__ void Decode(uint32_t p, uint32_t step, uint32_t (&a)[1][1][4]) const {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t shift = step % 2 * 16;
      const uint32_t four = Base::Eight(p, step / 2, half) >> shift & 0xFFFFu;
      const uint32_t bits = Base::Outliers(step / 2, half) >> shift & 0xFFFFu;
      const uint32_t lows = low[half].Decode(four, bits);
      const uint32_t highs = high[half].Decode(four, bits);
      a[0][0][half] = __byte_perm(lows, highs, 0x5140);
      a[0][0][2 + half] = __byte_perm(lows, highs, 0x7362);
    }
  }

  static __device__ __forceinline__ float Finish(const IcquantView& w, uint32_t row, float sum,
                                                 const Activations&, uint32_t) {
    return w.scales[row] * sum;
  }
};

// Calls launch.operator()<Weights>() with the form of the matrix.
template <int kBits, typename Launch>
const char* WithForm(const IcquantView& w, Launch launch) {
  const bool outliers = w.symbols != nullptr;
  if (w.level_bytes == 1) {
    return outliers ? launch.template operator()<IcquantWeights<kBits, true>>()
                    : launch.template operator()<IcquantWeights<kBits, false>>();
  }
  return outliers ? launch.template operator()<IcquantHalfWeights<kBits, true>>()
                  : launch.template operator()<IcquantHalfWeights<kBits, false>>();
}

template <typename Launch>
const char* WithWeights(const IcquantView& w, Launch launch) {
  switch (w.bits) {
    case 1:
      return WithForm<1>(w, launch);
    case 2:
      return WithForm<2>(w, launch);
    case 3:
      return WithForm<3>(w, launch);
    case 4:
      return WithForm<4>(w, launch);
    default:
      return "ICQuant's bits must be 1 to 4";
  }
}

}  // namespace

const char* MultiplyForm(const IcquantView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream) {
  return WithWeights(
      w, [&]<typename Weights>() { return LaunchProduct<Weights>(w, x, y, stride, stream); });
}

const char* ExpandForm(const IcquantView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream) {
  return WithWeights(w, [&]<typename Weights>() {
    return LaunchExpand<Weights>(w, first_row, rows, out, stream);
  });
}

}  // namespace quantloom::cuda
