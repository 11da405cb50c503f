// Products with QTIP's code 3INST.
#include "kernels/cuda/device/trellis_weights.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {

const char* Multiply3Inst(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                          Stream stream) {
  return MultiplyTrellisRate<ThreeInstWeights>(w, x, y, stride, stream);
}

}  // namespace quantloom::cuda
