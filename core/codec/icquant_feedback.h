// ICQuant's codes under LDLQ: outlier positions and levels are fixed first, then columns are
// rounded one after the other from their feedback targets. A target may cross the border between
// inliers and outliers; that changes neither its weight's part nor any position.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/codec/icquant_row.h"
#include "core/rounding/ldlq.h"

namespace quantloom {

// The rounding rule of one matrix. SetRow every row, then hand it to Ldlq.
class IcquantColumns final : public ColumnQuantizer {
 public:
  // `order`: the column at each place, as LDLQ takes them. `parts`: 2, or 1 without outliers.
  // `levels`: of a part.
  IcquantColumns(uint64_t rows, absl::Span<const uint32_t> order, uint32_t parts, uint32_t levels);

  // Thread-safe for distinct rows.
  void SetRow(uint64_t row, const IcquantLevels& levels,
              absl::Span<const uint32_t> outlier_columns);

  uint64_t width() const override { return 1; }
  absl::Status Quantize(uint64_t first_column, uint64_t columns, const float* targets,
                        float* decoded, ThreadTeam& team) override;

  // The level that was chosen, of the weight's part.
  uint8_t code(uint64_t row, uint64_t col) const { return codes_[place_[col] * rows_ + row]; }
  // What it was chosen for.
  float target(uint64_t row, uint64_t col) const { return targets_[place_[col] * rows_ + row]; }

 private:
  uint64_t rows_;
  std::vector<uint32_t> place_;  // of each column
  uint32_t parts_;
  uint32_t levels_;
  uint64_t row_stride_;        // floats of a row's tables
  std::vector<float> tables_;  // [rows][parts][levels - 1 thresholds, levels values]
  // Columns in LDLQ's order.
  std::vector<uint8_t> outlier_;  // [cols][rows] 0 or 1
  std::vector<uint8_t> codes_;    // [cols][rows]
  std::vector<float> targets_;    // [cols][rows]
};

}  // namespace quantloom
