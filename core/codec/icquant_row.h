// One row of a matrix while ICQuant encodes it: which columns are outliers, the two parts as sorted
// points, and the codes nearest to given levels.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/codec/kmeans1d.h"

namespace quantloom {

// Positions of the outliers and the points of both parts. Reusable; one per thread.
class IcquantRow {
 public:
  // Splits `weights`: the `outliers` largest |w| (ties to the lowest column), except that a segment
  // of 256 columns that would be all outliers leaves out its smallest. `importance` is positive,
  // one per column.
  void Split(absl::Span<const float> weights, absl::Span<const double> importance,
             uint64_t outliers);

  // The same with the outliers' columns given, ascending.
  void SplitAt(absl::Span<const float> weights, absl::Span<const double> importance,
               absl::Span<const uint32_t> columns);

  // Columns of the outliers, ascending.
  absl::Span<const uint32_t> outlier_columns() const { return columns_; }
  const WeightedPoints& inliers() const { return inliers_; }
  const WeightedPoints& outliers() const { return outliers_; }

 private:
  void ChooseColumns(absl::Span<const float> weights, uint64_t outliers);
  void SplitAtColumns(absl::Span<const float> weights, absl::Span<const double> importance);

  std::vector<uint64_t> keys_;
  std::vector<uint32_t> columns_;
  std::vector<double> values_;
  std::vector<double> weights_;
  WeightedPoints inliers_;
  WeightedPoints outliers_;
};

// A row's levels, as they are stored and as they decode. Parts are [0] inliers, [1] outliers.
struct IcquantLevels {
  // Exact decoded values, ascending, of each part's `count` levels. With n = 8 in the integer form
  // there are 255, q = -127..127; otherwise 2^n.
  std::array<std::array<float, 256>, 2> values;
  uint32_t count = 0;

  // Stored forms; which are set depends on the codebook.
  std::array<std::array<uint16_t, 16>, 2> halves;   // fp16
  std::array<std::array<int8_t, 16>, 2> centroids;  // int8, tensor
  uint16_t scale = 0;                               // BF16
  uint16_t offset = 0;                              // BF16
  std::array<uint16_t, 6> ranges;                   // range: F16 (lowest, step) x 3
};

// Where the nearest of a part's levels changes: level k + 1 is nearer than k for floats above
// above[k]. Halfway goes to the lower level.
struct IcquantThresholds {
  IcquantThresholds(const std::array<float, 256>& levels, uint32_t level_count);
  uint32_t Nearest(float x) const;

  std::array<float, 255> above;
  uint32_t count;  // levels - 1
};

// Sets codes[c] to the index of the nearest level of the part that column c belongs to (halfway
// goes to the lower), plus `first_code` modulo 256.
void AssignNearest(absl::Span<const float> weights, absl::Span<const uint32_t> outlier_columns,
                   const IcquantLevels& levels, int first_code, uint8_t* codes);

// sum_c importance_c (w_c - decoded_c)^2 of the codes that AssignNearest gave.
double RowError(absl::Span<const float> weights, absl::Span<const double> importance,
                absl::Span<const uint32_t> outlier_columns, const IcquantLevels& levels,
                int first_code, const uint8_t* codes);

}  // namespace quantloom
