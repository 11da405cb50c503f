#include "kernels/cpu/e8p_operator.h"

#include <utility>
#include <vector>

#include "kernels/cpu/e8p_kernels.h"
#include "kernels/cpu/token_blocks.h"
#include "kernels/cpu/weight_memory.h"

namespace quantloom::cpu {
namespace {

class E8pOperator final : public LinearOperator {
 public:
  E8pOperator(std::unique_ptr<TileMatrix> matrix, const E8pRate& rate)
      : LinearOperator(matrix->rows(), matrix->cols()), matrix_(std::move(matrix)) {
    scales_.resize(rows());
    for (uint64_t row = 0; row < rows(); ++row) scales_[row] = matrix_->scale(row) * kE8pUnit;
    const uint8_t* const stored = matrix_->tile(0, 0);
    codes_.assign(stored, stored + matrix_->grid().bytes());
    view_.codes = codes_.data();
    view_.vectors = matrix_->grid().col_tiles;
    view_.bits = rate.bits;
    view_.second_unit = rate.bits > 2 ? rate.residual_step() / kE8pUnit : 0.0f;
    view_.scales = scales_.data();
  }

  ActivationForm activation_form() const override { return ActivationForm::kInt8; }
  const Incoherence* incoherence() const override { return matrix_->incoherence(); }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    ForTokenBlocks(x.tokens(), x.padded_cols(), [&](size_t first, size_t count) {
      MultiplyE8p(view_, x, {row_begin, row_end, first, count, y + first * stride, stride});
    });
  }

  uint64_t weight_bytes() const override { return matrix_->grid().bytes(); }

 private:
  void DecodeStoredRow(uint64_t row, float* out) const override {
    matrix_->DecodeTile(row, 1, 0, cols(), out, cols());
  }

  std::unique_ptr<TileMatrix> matrix_;
  WeightVector<uint8_t> codes_;  // the stored tiles, in huge pages
  std::vector<float> scales_;
  E8pView view_ = {};
};

}  // namespace

std::unique_ptr<LinearOperator> MakeE8pOperator(std::unique_ptr<TileMatrix> matrix,
                                                const E8pRate& rate) {
  return std::make_unique<E8pOperator>(std::move(matrix), rate);
}

}  // namespace quantloom::cpu
