// Products with matrices that need no decoding: fp16 and int8. The memory is the bound: operands
// are loaded as they are multiplied.
#include "kernels/cuda/device/expand_kernel.h"
#include "kernels/cuda/device/launch_product.h"
#include "kernels/cuda/device/product_kernel.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {
namespace {

// A panel's fragments, as they are stored.
template <uint32_t kSteps>
struct StoredPanel {
  uint4 steps[kSteps];

  __device__ __forceinline__ void Load(const uint32_t* fragments, uint32_t row_tile,
                                       uint32_t panels, uint32_t panel) {
    const uint4* const first = reinterpret_cast<const uint4*>(fragments) +
                               (static_cast<size_t>(row_tile) * panels + panel) * kSteps * 32 +
                               threadIdx.x % 32;
#pragma unroll
    for (uint32_t step = 0; step < kSteps; ++step) steps[step] = LoadOnce(first + step * 32);
  }
  __device__ __forceinline__ void Fragment(uint32_t step, uint32_t (&a)[1][1][4]) const {
    a[0][0][0] = steps[step].x;
    a[0][0][1] = steps[step].y;
    a[0][0][2] = steps[step].z;
    a[0][0][3] = steps[step].w;
  }
};

template <typename ViewType, uint32_t kSteps>
struct StoredWeights : OnePlane {
  using View = ViewType;
  static constexpr uint32_t kRowTiles = 1;
  static constexpr uint32_t kSlabPanels = 1;
  struct Shared {};

  StoredPanel<kSteps> panel;

  __device__ __forceinline__ void Begin(const View&, uint32_t, Shared&) {}
  __device__ __forceinline__ void LoadSlab(const View& w, uint32_t row_tile, uint32_t first) {
    panel.Load(w.fragments, row_tile, w.panels, first);
  }
  __device__ __forceinline__ void BeginPanel(uint32_t) {}
  __device__ __forceinline__ void Decode(uint32_t, uint32_t step, uint32_t (&a)[1][1][4]) const {
    panel.Fragment(step, a);
  }
};

struct HalfMatrix : StoredWeights<HalfMatrixView, 8>, HalfWeights {
  static __device__ __forceinline__ float Finish(const View& w, uint32_t row, float sum,
                                                 const Activations&, uint32_t) {
    return w.scales[row] * sum;
  }
};

struct ByteMatrix : StoredWeights<ByteMatrixView, 4>,
                    Int8Weights,
                    ScaleAndOffset<ByteMatrixView> {};

}  // namespace

const char* MultiplyForm(const HalfMatrixView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream) {
  return LaunchProduct<HalfMatrix>(w, x, y, stride, stream);
}

const char* MultiplyForm(const ByteMatrixView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream) {
  return LaunchProduct<ByteMatrix>(w, x, y, stride, stream);
}

const char* ExpandForm(const HalfMatrixView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream) {
  return LaunchExpand<HalfMatrix>(w, first_row, rows, out, stream);
}

const char* ExpandForm(const ByteMatrixView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream) {
  return LaunchExpand<ByteMatrix>(w, first_row, rows, out, stream);
}

}  // namespace quantloom::cuda
