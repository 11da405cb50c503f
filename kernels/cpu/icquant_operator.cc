#include "kernels/cpu/icquant_operator.h"

#include <cstring>
#include <utility>

#include "core/codec/code_packing.h"
#include "kernels/cpu/icquant_kernels.h"
#include "kernels/cpu/token_blocks.h"

namespace quantloom::cpu {
namespace {

class IcquantOperator final : public LinearOperator {
 public:
  explicit IcquantOperator(std::unique_ptr<IcquantMatrix> matrix)
      : LinearOperator(matrix->rows(), matrix->cols()), matrix_(std::move(matrix)) {
    view_.matrix = matrix_.get();
    view_.steps = (cols() + kCodeBlockColumns - 1) / kCodeBlockColumns;
    view_.codes = matrix_->row_codes(0);
    view_.code_stride = matrix_->code_row_bytes();
    if (cols() % kCodeBlockColumns != 0) WidenLastBlocks();
    if (matrix_->has_outliers()) ExpandIndex();
    if (matrix_->integer_form()) CopyScales();
  }

  bool needs_quantized_activations() const override { return matrix_->integer_form(); }
  const Incoherence* incoherence() const override { return matrix_->incoherence(); }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    const bool integer = matrix_->integer_form();
    const size_t row_bytes = x.padded_cols() * (integer ? sizeof(int8_t) : sizeof(float));
    ForTokenBlocks(x.tokens(), row_bytes, [&](size_t first, size_t count) {
      const ProductRange range = {row_begin, row_end, first, count, y + first * stride, stride};
      integer ? MultiplyIcquantInteger(view_, x, range) : MultiplyIcquantFloat(view_, x, range);
    });
  }

  // Codes, bitmap, and the levels (whose plane the product reads in place).
  uint64_t weight_bytes() const override {
    const double level_bits = matrix_->bits().codebooks * static_cast<double>(rows() * cols());
    return rows() * view_.code_stride + outliers_.size() * sizeof(uint64_t) +
           static_cast<uint64_t>(level_bits / 8);
  }

 private:
  void DecodeStoredRow(uint64_t row, float* out) const override {
    matrix_->DecodeTile(row, 1, 0, cols(), out, cols());
  }

  // Rows of whole blocks: the last block's codes, repacked as a block of 64 with zeros behind.
  void WidenLastBlocks() {
    const int bits = matrix_->code_bits();
    const size_t full_bytes = CodeBlockBytes(bits, kCodeBlockColumns);
    const size_t kept_bytes = (view_.steps - 1) * full_bytes;
    const uint32_t width = static_cast<uint32_t>(cols() % kCodeBlockColumns);
    const size_t stride = view_.steps * full_bytes;
    widened_.resize(rows() * stride);
    for (uint64_t row = 0; row < rows(); ++row) {
      const uint8_t* from = matrix_->row_codes(row);
      uint8_t* to = widened_.data() + row * stride;
      std::memcpy(to, from, kept_bytes);
      uint8_t codes[kCodeBlockColumns] = {};
      for (uint32_t c = 0; c < width; ++c) {
        codes[c] = static_cast<uint8_t>(BlockCode(from + kept_bytes, bits, width, c));
      }
      PackCodes(codes, bits, kCodeBlockColumns, to + kept_bytes);
    }
    view_.codes = widened_.data();
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
  IcquantView view_ = {};
  AlignedVector<uint8_t> widened_;
  AlignedVector<uint64_t> outliers_;
  std::vector<float> scales_;
  std::vector<float> offsets_;
};

}  // namespace

std::unique_ptr<LinearOperator> MakeIcquantOperator(std::unique_ptr<IcquantMatrix> matrix) {
  return std::make_unique<IcquantOperator>(std::move(matrix));
}

}  // namespace quantloom::cpu
