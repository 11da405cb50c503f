// Products with QTIP's code HYB.
#include "kernels/cuda/device/trellis_weights.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {

const char* MultiplyHyb(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                        Stream stream) {
  return MultiplyTrellisRate<HybWeights>(w, x, y, stride, stream);
}

const char* ExpandHyb(const TrellisView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                      Stream stream) {
  return ExpandTrellisRate<HybWeights>(w, first_row, rows, out, stream);
}

}  // namespace quantloom::cuda
