// Products with QTIP's code HYB.
#include "kernels/cuda/device/trellis_weights.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {

const char* MultiplyHyb(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                        Stream stream) {
  return MultiplyTrellisRate<HybWeights>(w, x, y, stride, stream);
}

}  // namespace quantloom::cuda
