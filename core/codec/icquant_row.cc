#include "core/codec/icquant_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/codec/gap_code.h"

namespace quantloom {
namespace {

// Orders by |w| descending, then by column ascending.
uint64_t OutlierKey(float weight, size_t column) {
  const uint32_t magnitude = std::bit_cast<uint32_t>(weight) & 0x7FFFFFFFu;
  return uint64_t{0x7FFFFFFFu - magnitude} << 32 | column;
}

// The largest float t with: x above the midpoint of a and b exactly when x > t, for any float x.
float Threshold(float a, float b) {
  const double middle = (static_cast<double>(a) + static_cast<double>(b)) / 2;
  const float rounded = static_cast<float>(middle);
  return static_cast<double>(rounded) > middle
             ? std::nextafter(rounded, -std::numeric_limits<float>::infinity())
             : rounded;
}

}  // namespace

IcquantThresholds::IcquantThresholds(const std::array<float, 256>& levels, uint32_t level_count)
    : count(level_count - 1) {
  for (uint32_t k = 0; k < count; ++k) above[k] = Threshold(levels[k], levels[k + 1]);
}

uint32_t IcquantThresholds::Nearest(float x) const {
  return static_cast<uint32_t>(std::lower_bound(above.begin(), above.begin() + count, x) -
                               above.begin());
}

void IcquantRow::ChooseColumns(absl::Span<const float> weights, uint64_t outliers) {
  columns_.clear();
  if (outliers == 0) return;
  keys_.resize(weights.size());
  for (size_t c = 0; c < weights.size(); ++c) keys_[c] = OutlierKey(weights[c], c);
  const auto end = keys_.begin() + static_cast<ptrdiff_t>(outliers);
  if (end != keys_.end()) std::nth_element(keys_.begin(), end, keys_.end());
  for (auto key = keys_.begin(); key != end; ++key) columns_.push_back(static_cast<uint32_t>(*key));
  std::sort(columns_.begin(), columns_.end());

  // Leave out the smallest of a segment whose columns were all chosen.
  for (size_t begin = 0; begin + kGapSegmentColumns <= columns_.size();) {
    const uint32_t segment = columns_[begin] / kGapSegmentColumns;
    const size_t last = begin + kGapSegmentColumns - 1;
    if (columns_[begin] % kGapSegmentColumns == 0 &&
        columns_[last] == columns_[begin] + kGapSegmentColumns - 1) {
      const auto first = columns_.begin() + static_cast<ptrdiff_t>(begin);
      columns_.erase(
          std::max_element(first, first + kGapSegmentColumns, [&](uint32_t a, uint32_t b) {
            return OutlierKey(weights[a], a) < OutlierKey(weights[b], b);
          }));
    }
    while (begin < columns_.size() && columns_[begin] / kGapSegmentColumns == segment) ++begin;
  }
}

void IcquantRow::Split(absl::Span<const float> weights, absl::Span<const double> importance,
                       uint64_t outliers) {
  ChooseColumns(weights, outliers);
  SplitAtColumns(weights, importance);
}

void IcquantRow::SplitAt(absl::Span<const float> weights, absl::Span<const double> importance,
                         absl::Span<const uint32_t> columns) {
  columns_.assign(columns.begin(), columns.end());
  SplitAtColumns(weights, importance);
}

void IcquantRow::SplitAtColumns(absl::Span<const float> weights,
                                absl::Span<const double> importance) {
  values_.clear();
  weights_.clear();
  for (const uint32_t c : columns_) {
    values_.push_back(static_cast<double>(weights[c]));
    weights_.push_back(importance[c]);
  }
  outliers_.Assign(values_, weights_);
  values_.clear();
  weights_.clear();
  size_t next = 0;
  for (uint32_t c = 0; c < weights.size(); ++c) {
    if (next < columns_.size() && columns_[next] == c) {
      ++next;
      continue;
    }
    values_.push_back(static_cast<double>(weights[c]));
    weights_.push_back(importance[c]);
  }
  inliers_.Assign(values_, weights_);
}

void AssignNearest(absl::Span<const float> weights, absl::Span<const uint32_t> outlier_columns,
                   const IcquantLevels& levels, int first_code, uint8_t* codes) {
  constexpr uint32_t kCountedThresholds = 15;  // n <= 4: counting them vectorizes
  const IcquantThresholds inlier(levels.values[0], levels.count);
  if (inlier.count <= kCountedThresholds) {
    std::fill(codes, codes + weights.size(), 0);
    for (uint32_t k = 0; k < inlier.count; ++k) {
      const float above = inlier.above[k];
      for (size_t c = 0; c < weights.size(); ++c) {
        codes[c] = static_cast<uint8_t>(codes[c] + (weights[c] > above ? 1 : 0));
      }
    }
  } else {
    for (size_t c = 0; c < weights.size(); ++c) {
      codes[c] = static_cast<uint8_t>(inlier.Nearest(weights[c]));
    }
  }
  if (!outlier_columns.empty()) {
    const IcquantThresholds outlier(levels.values[1], levels.count);
    for (const uint32_t c : outlier_columns) {
      codes[c] = static_cast<uint8_t>(outlier.Nearest(weights[c]));
    }
  }
  if (first_code != 0) {
    for (size_t c = 0; c < weights.size(); ++c)
      codes[c] = static_cast<uint8_t>(codes[c] + first_code);
  }
}

double RowError(absl::Span<const float> weights, absl::Span<const double> importance,
                absl::Span<const uint32_t> outlier_columns, const IcquantLevels& levels,
                int first_code, const uint8_t* codes) {
  double error = 0;
  size_t next = 0;
  for (size_t c = 0; c < weights.size(); ++c) {
    const bool outlier = next < outlier_columns.size() && outlier_columns[next] == c;
    if (outlier) ++next;
    const uint8_t level = static_cast<uint8_t>(codes[c] - first_code);
    const double miss = static_cast<double>(weights[c]) -
                        static_cast<double>(levels.values[outlier ? 1 : 0][level]);
    error += importance[c] * miss * miss;
  }
  return error;
}

}  // namespace quantloom
