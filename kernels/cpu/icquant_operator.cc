#include "kernels/cpu/icquant_operator.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/codec/code_packing.h"
#include "kernels/cpu/icquant_kernels.h"
#include "kernels/cpu/token_blocks.h"
#include "kernels/cpu/weight_memory.h"

namespace quantloom::cpu {
namespace {

class IcquantOperator final : public LinearOperator {
 public:
  IcquantOperator(std::unique_ptr<IcquantMatrix> matrix, ActivationForm form)
      : LinearOperator(matrix->rows(), matrix->cols()), matrix_(std::move(matrix)), form_(form) {
    view_.matrix = matrix_.get();
    view_.steps = (cols() + kCodeBlockColumns - 1) / kCodeBlockColumns;
    if (matrix_->integer_form()) CopyScales();
    if (matrix_->integer_form() && matrix_->code_bits() <= 4) {
      view_.stream = &stream_.emplace(*matrix_);
      return;
    }
    view_.codes = matrix_->row_codes(0);
    view_.code_stride = matrix_->code_row_bytes();
    if (cols() % kCodeBlockColumns != 0 || matrix_->integer_form()) CopyRows();
    if (matrix_->has_outliers()) ExpandIndex();
  }

  ActivationForm activation_form() const override { return form_; }
  const Incoherence* incoherence() const override { return matrix_->incoherence(); }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    if (form_ == ActivationForm::kFloat) {
      ForTokenBlocks(x.tokens(), x.padded_cols() * sizeof(float), [&](size_t first, size_t count) {
        MultiplyIcquantFloat(view_, x,
                             {row_begin, row_end, first, count, y + first * stride, stride});
      });
      return;
    }
    const size_t rows = form_ == ActivationForm::kInt16 ? x.code_rows() : x.tokens();
    ForTokenBlocks(rows, x.padded_cols(), [&](size_t first, size_t count) {
      MultiplyIcquantInteger(
          view_, x, {row_begin, row_end, first, count, y + x.token_of(first) * stride, stride});
    });
  }

  // Codes, outliers, and the levels (whose plane the product reads in place).
  uint64_t weight_bytes() const override {
    const double level_bits = matrix_->bits().codebooks * static_cast<double>(rows() * cols());
    const uint64_t stored = stream_
                                ? stream_->bytes()
                                : rows() * view_.code_stride + outliers_.size() * sizeof(uint64_t);
    return stored + static_cast<uint64_t>(level_bits / 8);
  }

 private:
  void DecodeStoredRow(uint64_t row, float* out) const override {
    matrix_->DecodeTile(row, 1, 0, cols(), out, cols());
  }

  // Rows of whole blocks, in memory of the operator's own: with 8 bits, which are read at the speed
  // of memory, huge pages are worth the copy (a head of 100 MB: 1.5 times as fast as from a file).
  void CopyRows() {
    const size_t stride = CodeRowBytes(matrix_->code_bits(), view_.steps * kCodeBlockColumns);
    copied_.resize(rows() * stride);
    for (uint64_t row = 0; row < rows(); ++row) {
      WidenRow(matrix_->row_codes(row), matrix_->code_bits(), cols(),
               copied_.data() + row * stride);
    }
    view_.codes = copied_.data();
    view_.code_stride = stride;
  }

  void ExpandIndex() {
    outliers_.resize(rows() * view_.steps);
    for (uint64_t row = 0; row < rows(); ++row) {
      matrix_->OutlierBitmap(row, 0, view_.steps, outliers_.data() + row * view_.steps);
    }
    view_.outliers = outliers_.data();
  }

  void CopyScales() {
    scales_.resize(rows());
    for (uint64_t row = 0; row < rows(); ++row) scales_[row] = matrix_->scale(row);
    view_.scales = scales_.data();
    if (!matrix_->has_offset()) return;
    offsets_.resize(rows());
    for (uint64_t row = 0; row < rows(); ++row) offsets_[row] = matrix_->offset(row);
    view_.offsets = offsets_.data();
  }

  std::unique_ptr<IcquantMatrix> matrix_;
  const ActivationForm form_;
  IcquantView view_ = {};
  std::optional<IcquantStream> stream_;
  WeightVector<uint8_t> copied_;
  WeightVector<uint64_t> outliers_;
  std::vector<float> scales_;
  std::vector<float> offsets_;
};

}  // namespace

std::unique_ptr<LinearOperator> MakeIcquantOperator(std::unique_ptr<IcquantMatrix> matrix,
                                                    ActivationForm form) {
  if (!matrix->integer_form()) {
    form = ActivationForm::kFloat;
  } else if (matrix->code_bits() <= kMaxWideBits) {
    form = ActivationForm::kInt8Wide;
  } else {
    form = std::max(form, ActivationForm::kInt8);
  }
  return std::make_unique<IcquantOperator>(std::move(matrix), form);
}

}  // namespace quantloom::cpu
