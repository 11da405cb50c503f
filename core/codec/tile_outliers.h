// Outlier coding around a tile code, ICQuant on top of a vector quantizer (arXiv 2505.00850): each
// row's outliers are left out of the tiles' distortion and coded by a scalar codebook of the row.
// Planes, beside those of outlier_index.h, with n bits an outlier:
//
//   outlier_codes     U8    n bits for each symbol of the index, in its order, first symbol in the
//                           lowest bits of the first byte; zeros for escapes
//   outlier_codebook  I8    [rows, 2^n]: centroids q, ascending
//   outlier_scale     BF16  [rows]; an outlier's value is scale * q
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "core/codec/outlier_index.h"
#include "core/codec/plane_set.h"

namespace quantloom {

struct TileOutlierOptions {
  double share = 0;    // gamma, 0 .. 0.25; 0: none
  int bits = 2;        // n of an outlier's code, 1 .. 4
  int index_bits = 0;  // of a gap symbol; 0: the encoder's choice
};

// The outliers of a matrix while it is encoded.
class TileOutliers {
 public:
  // Chooses positions (the largest |w| of each row) and fits the rows' codebooks under the columns'
  // positive `importance`. `weights_t` is [cols, rows].
  TileOutliers(const TileOutlierOptions& options, absl::Span<const float> weights_t, uint64_t rows,
               uint64_t cols, absl::Span<const double> importance, ThreadTeam& team);

  // [rows] from `column` on: whose weight is an outlier, 1 or 0.
  const uint8_t* mask(uint64_t column) const { return mask_.data() + column * rows_; }
  // Gives the outliers of columns [first_column, first_column + columns) the level nearest to their
  // targets. `targets` and `decoded` are [columns, rows]; others are left alone.
  void Round(uint64_t first_column, uint64_t columns, const float* targets, float* decoded);
  // Appends the planes; returns the index's symbol width. Errors are OutlierIndexWriter::Write's.
  absl::StatusOr<int> Write(std::vector<Plane>& planes) const;

 private:
  TileOutlierOptions options_;
  uint64_t rows_;
  uint64_t cols_;
  uint64_t levels_;  // 2^n
  OutlierIndexWriter index_;
  std::vector<uint8_t> mask_;      // [cols, rows]
  std::vector<uint8_t> codes_;     // [cols, rows]
  std::vector<float> values_;      // [rows, 2^n]
  std::vector<int8_t> centroids_;  // [rows, 2^n]
  std::vector<uint16_t> scales_;   // [rows], BF16
};

// The same as it is stored. Views the planes' bytes.
class StoredTileOutliers {
 public:
  // Takes its planes out of `planes` and checks them.
  static absl::StatusOr<StoredTileOutliers> Take(const TileOutlierOptions& options,
                                                 PlaneSet& planes, uint64_t rows, uint64_t cols);

  // Puts the row's outliers of columns [col, col + cols) at out[c - col].
  void Apply(uint64_t row, uint64_t col, uint64_t cols, float* out) const;

  const OutlierIndex& index() const { return index_; }
  uint64_t code_bytes() const;

 private:
  StoredTileOutliers(const TileOutlierOptions& options, OutlierIndex index)
      : bits_(options.bits), index_(index) {}

  int bits_;
  OutlierIndex index_;
  const uint8_t* codes_ = nullptr;
  const int8_t* centroids_ = nullptr;
  const uint8_t* scales_ = nullptr;  // BF16
};

}  // namespace quantloom
