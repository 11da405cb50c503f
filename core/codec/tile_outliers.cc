#include "core/codec/tile_outliers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/base/status.h"
#include "core/codec/icquant_levels.h"
#include "core/codec/icquant_row.h"

namespace quantloom {
namespace {

constexpr char kCodec[] = "icquant";

uint64_t CodeBytes(uint64_t symbols, int bits) {
  return (symbols * static_cast<uint64_t>(bits) + 7) / 8;
}

}  // namespace

TileOutliers::TileOutliers(const TileOutlierOptions& options, absl::Span<const float> weights_t,
                           uint64_t rows, uint64_t cols, absl::Span<const double> importance,
                           ThreadTeam& team)
    : options_(options),
      rows_(rows),
      cols_(cols),
      levels_(uint64_t{1} << options.bits),
      index_(rows, cols, RowOutliers(options.share, cols)),
      mask_(rows * cols),
      codes_(rows * cols),
      values_(rows * levels_),
      centroids_(rows * levels_),
      scales_(rows) {
  // A row's outliers are fitted as a part of their own, in ICQuant's int8 form.
  IcquantOptions form;
  form.bits = options.bits;
  form.outliers = 0;
  form.codebook = IcquantCodebook::kInt8;
  form.offset = IcquantOffset::kNone;
  team.ParallelFor(rows, 4, [&](size_t begin, size_t end, int) {
    IcquantRow row, part;
    IcquantLevelFitter fitter(form, nullptr);
    IcquantLevels levels;
    std::vector<float> weights(cols), values;
    std::vector<double> value_importance;
    for (size_t r = begin; r < end; ++r) {
      for (uint64_t c = 0; c < cols; ++c) weights[c] = weights_t[c * rows + r];
      row.Split(weights, importance, RowOutliers(options.share, cols));
      index_.SetRow(r, row.outlier_columns());
      values.clear();
      value_importance.clear();
      for (const uint32_t c : row.outlier_columns()) {
        mask_[c * rows + r] = 1;
        values.push_back(weights[c]);
        value_importance.push_back(importance[c]);
      }
      part.SplitAt(values, value_importance, {});
      fitter.Fit(part, levels);
      std::copy_n(levels.values[0].begin(), levels_, values_.data() + r * levels_);
      std::copy_n(levels.centroids[0].begin(), levels_, centroids_.data() + r * levels_);
      scales_[r] = levels.scale;
    }
  });
}

void TileOutliers::Round(uint64_t first_column, uint64_t columns, const float* targets,
                         float* decoded) {
  for (uint64_t c = 0; c < columns; ++c) {
    const uint8_t* outlier = mask(first_column + c);
    for (uint64_t r = 0; r < rows_; ++r) {
      if (outlier[r] == 0) continue;
      const float* values = values_.data() + r * levels_;
      const float target = targets[c * rows_ + r];
      uint64_t best = 0;
      for (uint64_t k = 1; k < levels_; ++k) {
        if (std::fabs(values[k] - target) < std::fabs(values[best] - target)) best = k;
      }
      codes_[(first_column + c) * rows_ + r] = static_cast<uint8_t>(best);
      decoded[c * rows_ + r] = values[best];
    }
  }
}

absl::StatusOr<int> TileOutliers::Write(std::vector<Plane>& planes) const {
  std::vector<Plane> index_planes;
  QL_ASSIGN_OR_RETURN(const int index_bits,
                      index_.Write(kCodec, options_.index_bits, index_planes));
  std::vector<PlaneView> views;
  views.reserve(index_planes.size());
  for (const Plane& plane : index_planes) views.push_back(plane.view());
  PlaneSet set(views);
  QL_ASSIGN_OR_RETURN(
      const OutlierIndex index,
      OutlierIndex::Take(set, rows_, cols_, index_bits, RowOutliers(options_.share, cols_)));
  Plane codes = NewPlane("outlier_codes", DType::kU8, CodeBytes(index.symbols(), options_.bits));
  for (uint64_t row = 0; row < rows_; ++row) {
    index.ForEachOutlier(row, 0, cols_, [&](uint64_t column, uint64_t symbol) {
      WriteGapSymbol(codes_[column * rows_ + row], options_.bits, symbol, codes.bytes.data());
    });
  }
  Plane codebook = NewPlane("outlier_codebook", DType::kI8, centroids_.size());
  std::memcpy(codebook.bytes.data(), centroids_.data(), centroids_.size());
  Plane scale = NewPlane("outlier_scale", DType::kBF16, scales_.size() * 2);
  std::memcpy(scale.bytes.data(), scales_.data(), scales_.size() * 2);
  for (Plane& plane : index_planes) planes.push_back(std::move(plane));
  planes.push_back(std::move(codes));
  planes.push_back(std::move(codebook));
  planes.push_back(std::move(scale));
  return index_bits;
}

absl::StatusOr<StoredTileOutliers> StoredTileOutliers::Take(const TileOutlierOptions& options,
                                                            PlaneSet& planes, uint64_t rows,
                                                            uint64_t cols) {
  QL_ASSIGN_OR_RETURN(OutlierIndex index, OutlierIndex::Take(planes, rows, cols, options.index_bits,
                                                             RowOutliers(options.share, cols)));
  StoredTileOutliers outliers(options, index);
  const uint64_t levels = uint64_t{1} << options.bits;
  QL_ASSIGN_OR_RETURN(outliers.codes_,
                      planes.Take("outlier_codes", DType::kU8, outliers.code_bytes()));
  QL_ASSIGN_OR_RETURN(const uint8_t* centroids,
                      planes.Take("outlier_codebook", DType::kI8, rows * levels));
  outliers.centroids_ = reinterpret_cast<const int8_t*>(centroids);
  QL_ASSIGN_OR_RETURN(outliers.scales_, planes.Take("outlier_scale", DType::kBF16, rows * 2));
  for (uint64_t row = 0; row < rows; ++row) {
    const float scale = BFloat16ToFloat(LoadU16(outliers.scales_, row));
    if (!(scale >= 0) || !std::isfinite(scale * 128)) {
      return CorruptPlane("outlier_scale", absl::StrCat("has no scale in row ", row));
    }
  }
  return outliers;
}

uint64_t StoredTileOutliers::code_bytes() const { return CodeBytes(index_.symbols(), bits_); }

void StoredTileOutliers::Apply(uint64_t row, uint64_t col, uint64_t cols, float* out) const {
  const float scale = BFloat16ToFloat(LoadU16(scales_, row));
  const int8_t* centroids = centroids_ + (row << bits_);
  index_.ForEachOutlier(row, col, col + cols, [&](uint64_t column, uint64_t symbol) {
    const uint32_t code = GapSymbol(codes_, bits_, symbol);
    out[column - col] = scale * static_cast<float>(centroids[code]);
  });
}

}  // namespace quantloom
