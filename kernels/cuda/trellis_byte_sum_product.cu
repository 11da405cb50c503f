// Products with QTIP's codes 1MAD and MUL1.
#include "kernels/cuda/device/trellis_weights.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {

const char* MultiplyByteSums(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                             Stream stream) {
  return MultiplyTrellisRate<ByteSumWeights>(w, x, y, stride, stream);
}

const char* ExpandByteSums(const TrellisView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                           Stream stream) {
  return ExpandTrellisRate<ByteSumWeights>(w, first_row, rows, out, stream);
}

}  // namespace quantloom::cuda
