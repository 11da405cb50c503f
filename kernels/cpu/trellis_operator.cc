#include "kernels/cpu/trellis_operator.h"

#include <cstring>
#include <utility>
#include <vector>

#include "core/codec/trellis_tiles.h"
#include "kernels/cpu/aligned.h"
#include "kernels/cpu/token_blocks.h"
#include "kernels/cpu/trellis_kernels.h"

namespace quantloom::cpu {
namespace {

constexpr int kMostHalfBits = 8;

class TrellisOperator final : public LinearOperator {
 public:
  TrellisOperator(std::unique_ptr<TileMatrix> matrix, const TrellisFormat& format)
      : LinearOperator(matrix->rows(), matrix->cols()), matrix_(std::move(matrix)) {
    const bool is_1mad = format.code() == TrellisCode::k1Mad;
    view_.half_bits = format.half_bits();
    view_.multiplier = is_1mad ? k1MadMultiplier : kMul1Multiplier;
    view_.addend = is_1mad ? k1MadAddend : 0;
    view_.steps = (cols() + Activations::kStepCols - 1) / Activations::kStepCols;
    CopyBits();
    CopyScales(is_1mad ? k1MadUnit : 1.0f);
  }

  bool needs_quantized_activations() const override { return true; }
  const Incoherence* incoherence() const override { return matrix_->incoherence(); }

  void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                size_t stride) const override {
    ForTokenBlocks(x.tokens(), x.padded_cols(), [&](size_t first, size_t count) {
      MultiplyTrellis(view_, x, {row_begin, row_end, first, count, y + first * stride, stride});
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
  TrellisView view_ = {};
  AlignedVector<uint8_t> bits_;
  std::vector<float> scales_;
};

}  // namespace

std::optional<TrellisFormat> PlainTrellis(const PackedMatrix& matrix) {
  const auto* tiles = dynamic_cast<const TileMatrix*>(&matrix);
  if (tiles == nullptr || tiles->has_outliers()) return std::nullopt;
  absl::StatusOr<Recipe> recipe = Recipe::Parse(matrix.recipe());
  if (!recipe.ok() || recipe->codec != "qtip") return std::nullopt;
  const absl::StatusOr<TrellisFormat> format = TakeTrellisFormat(*recipe);
  return format.ok() ? std::optional(*format) : std::nullopt;
}

bool IsByteSumTrellis(const TrellisFormat& format) {
  const bool byte_sum = format.code() == TrellisCode::k1Mad || format.code() == TrellisCode::kMul1;
  return byte_sum && format.half_bits() <= kMostHalfBits;
}

std::unique_ptr<LinearOperator> MakeTrellisOperator(std::unique_ptr<TileMatrix> matrix,
                                                    const TrellisFormat& format) {
  return std::make_unique<TrellisOperator>(std::move(matrix), format);
}

}  // namespace quantloom::cpu
