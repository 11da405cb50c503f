#include "cli/bit_totals.h"

namespace quantloom::cli {

using ::quantloom::v1::Model;
using ::quantloom::v1::Tensor;

BitTotals TotalBits(const Model& model, const std::function<bool(const Tensor&)>& wanted) {
  struct Field {
    double (Tensor::*get)() const;
    void (Tensor::*set)(double);
  };
  static constexpr Field kFields[] = {
      {&Tensor::bits_per_weight, &Tensor::set_bits_per_weight},
      {&Tensor::code_bits, &Tensor::set_code_bits},
      {&Tensor::index_bits, &Tensor::set_index_bits},
      {&Tensor::checkpoint_bits, &Tensor::set_checkpoint_bits},
      {&Tensor::codebook_bits, &Tensor::set_codebook_bits},
      {&Tensor::padding_bits, &Tensor::set_padding_bits},
  };
  BitTotals totals;
  for (const Tensor& tensor : model.tensors()) {
    if (!wanted(tensor)) continue;
    uint64_t weights = 1;
    for (const uint64_t extent : tensor.shape()) weights *= extent;
    ++totals.tensors;
    totals.weights += weights;
    for (const Field& field : kFields) {
      (totals.bits.*field.set)((totals.bits.*field.get)() +
                               (tensor.*field.get)() * static_cast<double>(weights));
    }
  }
  if (totals.weights > 0) {
    for (const Field& field : kFields) {
      (totals.bits.*field.set)((totals.bits.*field.get)() / static_cast<double>(totals.weights));
    }
  }
  return totals;
}

}  // namespace quantloom::cli
