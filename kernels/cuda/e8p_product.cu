// Products with QuIP#'s vectors: one int8 matrix, or two of which the second has a unit of its own.
#include "kernels/cuda/device/e8p_decode.h"
#include "kernels/cuda/device/expand_kernel.h"
#include "kernels/cuda/device/lane_words.h"
#include "kernels/cuda/device/launch_product.h"
#include "kernels/cuda/device/product_kernel.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {
namespace {

template <uint32_t kBits>
struct E8pWeights : Int8Weights {
  using View = E8pView;
  static constexpr uint32_t kRowTiles = 1;
  static constexpr uint32_t kPlanes = kBits == 2 ? 1 : 2;
  static constexpr uint32_t kSlabPanels = kBits == 2 ? 4 : 2;  // 48 bytes a lane and more
  static constexpr uint32_t kWords = E8pLaneWords(kBits);
  static constexpr uint32_t kE8pPlanes = kBits == 4 ? 2 : 1;
  struct Shared {
    uint32_t selectors[256];
    uint2 one_bit[kBits == 3 ? 256 : 1];
  };

  uint32_t stored[kSlabPanels][kWords];
  E8pVectors vectors[kE8pPlanes][2];  // of the panel, of rows g and g + 8
  const Shared* tables;
  float second_unit;

  static __device__ __forceinline__ uint32_t TileRow(uint32_t g, uint32_t half) {
    return g + 8 * half;
  }

  __device__ __forceinline__ void Begin(const View& w, uint32_t, Shared& shared) {
    for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) {
      shared.selectors[i] = w.selectors[i];
      if constexpr (kBits == 3) {
        shared.one_bit[i] = reinterpret_cast<const uint2*>(w.one_bit)[i];
      }
    }
    __syncthreads();
    tables = &shared;
    second_unit = w.second_unit;
  }

  __device__ __forceinline__ void LoadSlab(const View& w, uint32_t row_tile, uint32_t panel) {
    const uint32_t* const first =
        w.codes + (static_cast<size_t>(row_tile) * w.panels + panel) * 32 * kWords;
#pragma unroll
    for (uint32_t p = 0; p < kSlabPanels; ++p) {
      if (panel + p < w.panels) LoadLaneWords(first + p * 32 * kWords, stored[p]);
    }
  }

  __device__ __forceinline__ void BeginPanel(uint32_t p) {
#pragma unroll
    for (uint32_t plane = 0; plane < kE8pPlanes; ++plane) {
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t at = 4 * plane + 2 * half;
        vectors[plane][half].Load(stored[p][at], stored[p][at + 1]);
      }
    }
  }

  // A step is a vector of either row.
  __device__ __forceinline__ void Decode(uint32_t p, uint32_t step,
                                         uint32_t (&a)[1][kPlanes][4]) const {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
#pragma unroll
      for (uint32_t plane = 0; plane < kE8pPlanes; ++plane) {
        vectors[plane][half].Decode(tables->selectors, step, a[0][plane][half],
                                    a[0][plane][2 + half]);
      }
      if constexpr (kBits == 3) {
        const uint2 second = tables->one_bit[stored[p][4 + half] >> (8 * step) & 0xFFu];
        a[0][1][half] = second.x;
        a[0][1][2 + half] = second.y;
      }
    }
  }

  __device__ __forceinline__ float Sum(const int (&d)[kPlanes][4], uint32_t i) const {
    if constexpr (kPlanes == 1) {
      return __int2float_rn(d[0][i]);
    } else {
      return __fmaf_rn(second_unit, __int2float_rn(d[1][i]), __int2float_rn(d[0][i]));
    }
  }
  static __device__ __forceinline__ float Finish(const View& w, uint32_t row, float sum,
                                                 const Activations&, uint32_t) {
    return w.scales[row] * sum;
  }
};

// Calls launch.operator()<Weights>() with the form of the matrix.
template <typename Launch>
const char* WithWeights(const E8pView& w, Launch launch) {
  switch (w.bits) {
    case 2:
      return launch.template operator()<E8pWeights<2>>();
    case 3:
      return launch.template operator()<E8pWeights<3>>();
    case 4:
      return launch.template operator()<E8pWeights<4>>();
    default:
      return "QuIP#'s bits must be 2 to 4";
  }
}

}  // namespace

const char* MultiplyForm(const E8pView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream) {
  return WithWeights(
      w, [&]<typename Weights>() { return LaunchProduct<Weights>(w, x, y, stride, stream); });
}

const char* ExpandForm(const E8pView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream) {
  return WithWeights(w, [&]<typename Weights>() {
    return LaunchExpand<Weights>(w, first_row, rows, out, stream);
  });
}

}  // namespace quantloom::cuda
