#include "core/codec/tile_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/base/status.h"
#include "core/codec/encode_input.h"
#include "core/codec/plane_set.h"

namespace quantloom {
namespace {

uint64_t TilesOf(uint64_t size, uint64_t tile) { return (size + tile - 1) / tile; }

}  // namespace

TileGrid::TileGrid(const TileCode& code, uint64_t rows, uint64_t cols)
    : row_tiles(TilesOf(rows, code.tile_rows())),
      col_tiles(TilesOf(cols, code.tile_cols())),
      tile_bytes(code.tile_bytes()) {}

TileMatrix::TileMatrix(std::unique_ptr<const TileCode> code, const TileOptions& options,
                       std::string recipe, uint64_t rows, uint64_t cols)
    : PackedMatrix(std::move(recipe), rows, cols),
      code_(std::move(code)),
      grid_(*code_, rows, cols),
      options_(options),
      incoherence_(rows, cols, options.incoherence) {}

absl::Status TileMatrix::SetPlanes(absl::Span<const PlaneView> planes) {
  PlaneSet set(planes);
  QL_ASSIGN_OR_RETURN(const uint8_t* codes, set.Take("codes", DType::kU8, grid_.bytes()));
  const bool row_scales = options_.scales == TileScales::kRow;
  const uint64_t scale_bytes = row_scales ? 2 * rows() : sizeof(float);
  QL_ASSIGN_OR_RETURN(const uint8_t* scale,
                      set.Take("scale", row_scales ? DType::kBF16 : DType::kF32, scale_bytes));
  scales_.resize(row_scales ? rows() : 1);
  for (uint64_t i = 0; i < scales_.size(); ++i) {
    if (row_scales) {
      scales_[i] = BFloat16ToFloat(LoadU16(scale, i));
    } else {
      std::memcpy(&scales_[i], scale, sizeof(float));
    }
    if (!(std::isfinite(scales_[i]) && scales_[i] >= 0)) {
      return CorruptPlane("scale",
                          absl::StrCat("has ", scales_[i], " at ", i, ", which is no scale"));
    }
  }
  uint64_t index_bits = 0, checkpoint_bytes = 0, outlier_code_bytes = 0;
  if (options_.outliers.share > 0) {
    QL_ASSIGN_OR_RETURN(outliers_,
                        StoredTileOutliers::Take(options_.outliers, set, rows(), cols()));
    index_bits = outliers_->index().index_bits();
    checkpoint_bytes = outliers_->index().checkpoint_bytes();
    outlier_code_bytes = outliers_->code_bytes();
  }
  QL_RETURN_IF_ERROR(set.CheckAllTaken());
  codes_ = codes;
  const double weights = static_cast<double>(rows()) * static_cast<double>(cols());
  const uint64_t code_bytes = grid_.bytes() + outlier_code_bytes;
  bits_.codes = 8.0 * static_cast<double>(code_bytes) / weights;
  bits_.index = static_cast<double>(index_bits) / weights;
  bits_.checkpoints = 8.0 * static_cast<double>(checkpoint_bytes) / weights;
  const uint64_t index_bytes = (index_bits + 7) / 8;
  const uint64_t codebook_bytes = set.content_bytes() - code_bytes - checkpoint_bytes - index_bytes;
  bits_.codebooks = 8.0 * static_cast<double>(codebook_bytes) / weights;
  bits_.padding = 8.0 * static_cast<double>(set.stored_bytes()) / weights - bits_.total();
  return absl::OkStatus();
}

void TileMatrix::DecodeTile(uint64_t row, uint64_t rows, uint64_t col, uint64_t cols, float* out,
                            uint64_t stride) const {
  const uint64_t height = code_->tile_rows(), width = code_->tile_cols();
  thread_local std::vector<float> values;
  values.resize(height * width);
  for (uint64_t r = row / height; r * height < row + rows; ++r) {
    for (uint64_t c = col / width; c * width < col + cols; ++c) {
      code_->Decode(codes_ + grid_.offset(r, c), values.data());
      const uint64_t row_end = std::min((r + 1) * height, row + rows);
      const uint64_t col_end = std::min((c + 1) * width, col + cols);
      for (uint64_t i = std::max(r * height, row); i < row_end; ++i) {
        for (uint64_t j = std::max(c * width, col); j < col_end; ++j) {
          out[(i - row) * stride + (j - col)] =
              scale(i) * values[(i - r * height) * width + (j - c * width)];
        }
      }
    }
  }
  if (!outliers_) return;
  for (uint64_t r = 0; r < rows; ++r) outliers_->Apply(row + r, col, cols, out + r * stride);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenTiles(std::unique_ptr<const TileCode> code,
                                                        const TileOptions& options,
                                                        const Recipe& recipe, uint64_t rows,
                                                        uint64_t cols,
                                                        absl::Span<const PlaneView> planes) {
  QL_RETURN_IF_ERROR(CheckShape(recipe.codec, rows, cols));
  if (options.outliers.share > 0 &&
      (options.outliers.index_bits == 0 || RowOutliers(options.outliers.share, cols) == 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(recipe.codec, ": '", recipe.ToString(), "' leaves choices to the encoder"));
  }
  // Before anything is allocated for a shape that a file claims.
  uint64_t stored = 0;
  for (const PlaneView& plane : planes) stored += plane.bytes.size();
  const TileGrid grid(*code, rows, cols);
  if (stored / grid.tile_bytes / grid.col_tiles < grid.row_tiles) {
    return absl::DataLossError(
        absl::StrCat("planes hold ", stored, " bytes, too few for shape [", rows, ", ", cols, "]"));
  }
  auto matrix =
      std::make_unique<TileMatrix>(std::move(code), options, recipe.ToString(), rows, cols);
  QL_RETURN_IF_ERROR(matrix->SetPlanes(planes));
  return matrix;
}

}  // namespace quantloom
