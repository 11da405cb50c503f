#include "kernels/cuda/product.h"
#include "kernels/cuda/product_forms.h"

namespace quantloom::cuda {

const char* MultiplyForm(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream) {
  switch (w.code) {
    case TrellisCode::k3Inst:
      return Multiply3Inst(w, x, y, stride, stream);
    case TrellisCode::kHyb:
      return MultiplyHyb(w, x, y, stride, stream);
    default:
      return MultiplyByteSums(w, x, y, stride, stream);
  }
}

const char* Multiply(const MatrixView& w, const Activations& x, float* y, uint32_t stride,
                     Stream stream) {
  if (x.form != ActivationFormOf(w)) return "Multiply: activations are not of the matrix's form";
  return std::visit(
      [&](const auto& view) -> const char* {
        if (x.panels != view.panels) return "Multiply: activations and matrix differ in columns";
        return MultiplyForm(view, x, y, stride, stream);
      },
      w);
}

}  // namespace quantloom::cuda
