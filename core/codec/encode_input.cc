#include "core/codec/encode_input.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

// Row of the first weight that is not finite or too large, or `rows`; *largest is the largest |w|.
uint64_t FirstBadRow(const EncodeInput& input, ThreadTeam& team, float* largest) {
  std::atomic<uint64_t> bad{input.rows};
  std::vector<float> row_largest(input.rows);
  team.ParallelFor(input.rows, 16, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      float most = 0;
      bool good = true;
      for (const float w : input.weights.subspan(r * input.cols, input.cols)) {
        const float magnitude = std::fabs(w);
        good &= magnitude <= kMaxWeight;  // false for NaN
        most = std::max(most, magnitude);
      }
      row_largest[r] = most;
      if (good) continue;
      uint64_t first = bad.load();
      while (r < first && !bad.compare_exchange_weak(first, r)) {
      }
    }
  });
  *largest = *std::max_element(row_largest.begin(), row_largest.end());
  return bad.load();
}

absl::Status CheckImportance(absl::string_view codec, const EncodeInput& input) {
  if (input.importance.empty()) return absl::OkStatus();
  if (input.importance.size() != input.cols) {
    return absl::InvalidArgumentError(absl::StrCat(codec, ": importance has ",
                                                   input.importance.size(), " entries for ",
                                                   input.cols, " columns"));
  }
  for (uint64_t c = 0; c < input.cols; ++c) {
    if (!(input.importance[c] >= 0) || !std::isfinite(input.importance[c])) {
      return absl::InvalidArgumentError(
          absl::StrCat(codec, ": importance of column ", c, " is ", input.importance[c]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<float> CheckEncodeInput(absl::string_view codec, const EncodeInput& input,
                                       ThreadTeam& team) {
  if (input.rows == 0 || input.cols == 0 || input.rows > kMaxMatrixDimension ||
      input.cols > kMaxMatrixDimension || input.weights.size() != input.rows * input.cols) {
    return absl::InvalidArgumentError(absl::StrCat(codec, ": ", input.weights.size(),
                                                   " weights for shape [", input.rows, ", ",
                                                   input.cols, "]"));
  }
  QL_RETURN_IF_ERROR(CheckImportance(codec, input));
  float largest = 0;
  const uint64_t bad_row = FirstBadRow(input, team, &largest);
  if (bad_row == input.rows) return largest;
  const absl::Span<const float> row = input.weights.subspan(bad_row * input.cols, input.cols);
  uint64_t column = 0;
  while (std::fabs(row[column]) <= kMaxWeight) ++column;
  return absl::InvalidArgumentError(
      absl::StrCat(codec, ": weight at row ", bad_row, ", column ", column, " is ", row[column],
                   std::isfinite(row[column]) ? ", larger than 2^126" : ""));
}

}  // namespace quantloom
