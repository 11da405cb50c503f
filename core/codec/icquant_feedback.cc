#include "core/codec/icquant_feedback.h"

#include <algorithm>

namespace quantloom {
namespace {
// Up to this many thresholds are counted, more are searched.
constexpr uint32_t kCountedThresholds = 15;
constexpr size_t kRowGrain = 128;
}  // namespace

IcquantColumns::IcquantColumns(uint64_t rows, absl::Span<const uint32_t> order, uint32_t parts,
                               uint32_t levels)
    : rows_(rows),
      place_(order.size()),
      parts_(parts),
      levels_(levels),
      row_stride_(uint64_t{parts} * (2 * levels - 1)),
      tables_(rows * row_stride_),
      outlier_(rows * order.size()),
      codes_(rows * order.size()),
      targets_(rows * order.size()) {
  for (uint32_t i = 0; i < order.size(); ++i) place_[order[i]] = i;
}

void IcquantColumns::SetRow(uint64_t row, const IcquantLevels& levels,
                            absl::Span<const uint32_t> outlier_columns) {
  float* table = tables_.data() + row * row_stride_;
  for (size_t part = 0; part < parts_; ++part) {
    const IcquantThresholds thresholds(levels.values[part], levels_);
    table = std::copy_n(thresholds.above.begin(), levels_ - 1, table);
    table = std::copy_n(levels.values[part].begin(), levels_, table);
  }
  for (const uint32_t c : outlier_columns) outlier_[place_[c] * rows_ + row] = 1;
}

absl::Status IcquantColumns::Quantize(uint64_t first_column, uint64_t columns, const float* targets,
                                      float* decoded, ThreadTeam& team) {
  const uint32_t count = levels_ - 1;
  std::copy_n(targets, columns * rows_, targets_.data() + first_column * rows_);
  for (uint64_t c = 0; c < columns; ++c, targets += rows_, decoded += rows_) {
    const uint8_t* outlier = outlier_.data() + (first_column + c) * rows_;
    uint8_t* codes = codes_.data() + (first_column + c) * rows_;
    team.ParallelFor(rows_, kRowGrain, [&](size_t begin, size_t end, int) {
      for (size_t r = begin; r < end; ++r) {
        const float* above = tables_.data() + r * row_stride_ + outlier[r] * (count + levels_);
        uint32_t code = 0;
        if (count <= kCountedThresholds) {
          for (uint32_t k = 0; k < count; ++k) code += targets[r] > above[k] ? 1 : 0;
        } else {
          code = static_cast<uint32_t>(std::lower_bound(above, above + count, targets[r]) - above);
        }
        codes[r] = static_cast<uint8_t>(code);
        decoded[r] = above[count + code];
      }
    });
  }
  return absl::OkStatus();
}

}  // namespace quantloom
