#include "kernels/cpu/decoded_operator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/transform/incoherence.h"
#include "kernels/cpu/dense.h"
#include "kernels/cpu/token_blocks.h"

namespace quantloom::cpu {
namespace {

// Rows decoded together, the height of a trellis-coded tile. Panels start at its multiples, so that
// no tile is decoded twice. All columns of a panel of 4096 are 256 KB: they stay in L2 while the
// activations pass.
constexpr size_t kPanelRows = 16;

class DecodedOperator final : public LinearOperator {
 public:
  explicit DecodedOperator(std::unique_ptr<PackedMatrix> matrix)
      : LinearOperator(matrix->rows(), matrix->cols()),
        matrix_(std::move(matrix)),
        stride_((cols() + 15) / 16 * 16) {}

  ActivationForm activation_form() const override { return ActivationForm::kFloat; }
  const Incoherence* incoherence() const override { return matrix_->incoherence(); }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    thread_local AlignedVector<float> panel;
    panel.resize(kPanelRows * stride_);
    for (size_t row = row_begin; row < row_end;) {
      const size_t count = std::min(kPanelRows - row % kPanelRows, row_end - row);
      DecodeRows(row, count, panel.data());
      ForTokenBlocks(x.tokens(), stride_ * sizeof(float), [&](size_t first, size_t tokens) {
        MultiplyFloats(panel.data(), stride_, count, x, first, tokens, y + first * stride + row,
                       stride);
      });
      row += count;
    }
  }

  uint64_t weight_bytes() const override {
    const double weights = static_cast<double>(rows()) * static_cast<double>(cols());
    return static_cast<uint64_t>(std::llround(matrix_->bits().total() * weights / 8));
  }

 private:
  void DecodeStoredRow(uint64_t row, float* out) const override {
    matrix_->DecodeTile(row, 1, 0, cols(), out, cols());
  }

  // Decodes rows to a panel [kPanelRows, stride_].
  void DecodeRows(size_t row, size_t count, float* panel) const {
    matrix_->DecodeTile(row, count, 0, cols(), panel, stride_);
    for (size_t r = 0; r < count; ++r) {
      std::fill(panel + r * stride_ + cols(), panel + (r + 1) * stride_, 0.0f);
    }
  }

  std::unique_ptr<PackedMatrix> matrix_;
  size_t stride_;  // floats of a decoded row: cols rounded up to 16, zeros behind
};

}  // namespace

std::unique_ptr<LinearOperator> MakeDecodedOperator(std::unique_ptr<PackedMatrix> matrix) {
  return std::make_unique<DecodedOperator>(std::move(matrix));
}

}  // namespace quantloom::cpu
