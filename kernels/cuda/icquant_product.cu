// Products with ICQuant's integer forms of 1 to 4 bits.
#include "kernels/cuda/device/icquant_decode.h"
#include "kernels/cuda/device/lane_words.h"
#include "kernels/cuda/device/product_kernel.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {
namespace {

template <int kBits, bool kOutliers>
struct IcquantWeights : Int8Weights, OnePlane, ScaleAndOffset<IcquantView> {
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

  CentroidTable<kBits, kOutliers> tables[2];  // of rows g and g + 8
  PanelCodes<kBits> codes[kSlabPanels];
  uint32_t outliers[2];  // of the panel, of rows g and g + 8
  SegmentBitmap* bitmaps;

  __device__ __forceinline__ void Begin(const View& w, uint32_t row_tile, Shared& shared) {
    const uint32_t g = threadIdx.x % 32 / 4;
    tables[0].Load(w, row_tile * kTileRows + g);
    tables[1].Load(w, row_tile * kTileRows + g + 8);
    if constexpr (kOutliers) bitmaps = shared.bitmaps[threadIdx.x / 32];
  }

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

  __device__ __forceinline__ void Decode(uint32_t p, uint32_t step, uint32_t (&a)[1][1][4]) const {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t row = codes[p].Row(step, half);
      const uint32_t bits = kOutliers ? outliers[half] >> step & 0x11111111u : 0;
      a[0][0][half] = tables[half].Decode(row & 0xFFFFu, bits & 0xFFFFu);
      a[0][0][2 + half] = tables[half].Decode(row >> 16, bits >> 16);
    }
  }
};

template <int kBits>
const char* MultiplyBits(const IcquantView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream) {
  return w.symbols == nullptr ? LaunchProduct<IcquantWeights<kBits, false>>(w, x, y, stride, stream)
                              : LaunchProduct<IcquantWeights<kBits, true>>(w, x, y, stride, stream);
}

}  // namespace

const char* MultiplyForm(const IcquantView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream) {
  switch (w.bits) {
    case 1:
      return MultiplyBits<1>(w, x, y, stride, stream);
    case 2:
      return MultiplyBits<2>(w, x, y, stride, stream);
    case 3:
      return MultiplyBits<3>(w, x, y, stride, stream);
    case 4:
      return MultiplyBits<4>(w, x, y, stride, stream);
    default:
      return "Multiply: ICQuant's bits must be 1 to 4";
  }
}

}  // namespace quantloom::cuda
