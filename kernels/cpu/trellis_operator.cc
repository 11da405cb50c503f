#include "kernels/cpu/trellis_operator.h"

#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cpu/token_blocks.h"
#include "kernels/cpu/trellis_kernels.h"
#include "kernels/cpu/weight_memory.h"

namespace quantloom::cpu {
namespace {

constexpr int kMostHalfBits = 8;

// A code's product, and what its integers count.
struct CodeProduct {
  void (*multiply)(const TrellisView& view, const Activations& x, const ProductRange& range,
                   const TrellisPanel& panel);
  float unit;

  static CodeProduct Of(TrellisCode code) {
    switch (code) {
      case TrellisCode::k1Mad:
        return {Multiply1MadTrellis, k1MadUnit};
      case TrellisCode::kMul1:
        return {MultiplyMul1Trellis, 1.0f};
      case TrellisCode::k3Inst:
        return {Multiply3InstTrellis, k3InstUnit};
      case TrellisCode::kHyb:
        break;
    }
    return {MultiplyHybTrellis, kHybUnit};
  }
};

class TrellisOperator final : public LinearOperator {
 public:
  TrellisOperator(std::unique_ptr<TileMatrix> matrix, const TrellisFormat& format)
      : LinearOperator(matrix->rows(), matrix->cols()),
        matrix_(std::move(matrix)),
        code_(CodeProduct::Of(format.code())) {
    view_.half_bits = format.half_bits();
    view_.steps = (cols() + Activations::kStepCols - 1) / Activations::kStepCols;
    CopyBits();
    CopyScales(code_.unit);
  }

  ActivationForm activation_form() const override { return ActivationForm::kInt8; }
  const Incoherence* incoherence() const override { return matrix_->incoherence(); }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    const size_t panel_stride = SpreadStride<int32_t>(view_.steps * TrellisPanel::kStepWords);
    thread_local AlignedVector<int32_t> panel;
    if (x.tokens() > 1) panel.resize(TrellisPanel::kRows * panel_stride);
    ForTokenBlocks(x.tokens(), x.padded_cols(), [&](size_t first, size_t count) {
      code_.multiply(view_, x, {row_begin, row_end, first, count, y + first * stride, stride},
                     {panel.data(), panel_stride});
    });
  }

  uint64_t weight_bytes() const override { return bits_.size() - TrellisView::kOverread; }

 private:
  void DecodeStoredRow(uint64_t row, float* out) const override {
    matrix_->DecodeTile(row, 1, 0, cols(), out, cols());
  }

  void CopyBits() {
    const TileGrid& grid = matrix_->grid();
    const auto row_bytes = static_cast<size_t>(view_.half_bits);
    const size_t step_bytes = TrellisView::StepBytes(view_.half_bits);
    bits_.resize(grid.row_tiles * view_.steps * step_bytes + TrellisView::kOverread);
    for (size_t row_tile = 0; row_tile < grid.row_tiles; ++row_tile) {
      for (size_t col_tile = 0; col_tile < grid.col_tiles; ++col_tile) {
        const uint8_t* from = matrix_->tile(row_tile, col_tile);
        uint8_t* to = bits_.data() +
                      (row_tile * view_.steps + col_tile / TrellisView::kStepTiles) * step_bytes +
                      col_tile % TrellisView::kStepTiles * row_bytes;
        for (size_t r = 0; r < TrellisView::kTileRows; ++r) {
          std::memcpy(to + r * TrellisView::kStepTiles * row_bytes, from + r * row_bytes,
                      row_bytes);
        }
      }
    }
    view_.bits = bits_.data();
  }

  void CopyScales(float unit) {
    scales_.resize(matrix_->grid().row_tiles * TrellisView::kTileRows);
    for (uint64_t row = 0; row < rows(); ++row) scales_[row] = matrix_->scale(row) * unit;
    view_.scales = scales_.data();
  }

  std::unique_ptr<TileMatrix> matrix_;
  CodeProduct code_;
  TrellisView view_ = {};
  WeightVector<uint8_t> bits_;
  std::vector<float> scales_;
};

}  // namespace

bool HasTrellisProduct(const TrellisFormat& format) { return format.half_bits() <= kMostHalfBits; }

std::unique_ptr<LinearOperator> MakeTrellisOperator(std::unique_ptr<TileMatrix> matrix,
                                                    const TrellisFormat& format) {
  return std::make_unique<TrellisOperator>(std::move(matrix), format);
}

}  // namespace quantloom::cpu
