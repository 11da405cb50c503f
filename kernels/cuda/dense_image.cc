#include "kernels/cuda/dense_image.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/codec/code_packing.h"
#include "kernels/cuda/image_layout.h"

namespace quantloom::cuda {
namespace {

// Where the element of a row's column is, in elements from the beginning of the fragments. A lane's
// 16 bytes of a step are two runs of columns from row g and from row g + 8 by turns.
template <typename Element>
size_t FragmentPlace(uint32_t row, uint32_t column, uint32_t panels) {
  constexpr uint32_t kRun = 4 / sizeof(Element);
  constexpr uint32_t kStepColumns = 2 * kRun;
  constexpr uint32_t kSteps = kLaneColumns / kStepColumns;
  const uint32_t panel = column / kPanelColumns;
  const uint32_t lane = row % 8 * 4 + column % kPanelColumns / kLaneColumns;
  const uint32_t step = column % kLaneColumns / kStepColumns;
  const uint32_t word = column % kStepColumns / kRun * 2 + row % kTileRows / 8;
  const size_t tile = size_t{row / kTileRows} * panels + panel;
  return (((tile * kSteps + step) * 32 + lane) * 4 + word) * kRun + column % kRun;
}

// Infinite where a value is not finite.
float LargestMagnitude(absl::Span<const float> values) {
  float largest = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) return std::numeric_limits<float>::infinity();
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

}  // namespace

float HalfScale(float largest) {
  if (largest == 0) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest in [2^(exponent - 1), 2^exponent)
  const float scale = std::ldexp(1.0f, std::max(exponent - 16, -126));
  return std::isinf(HalfToFloat(FloatToHalf(largest / scale))) ? 2 * scale : scale;
}

absl::StatusOr<MatrixImage> HalfImage(uint32_t rows, uint32_t cols, RowsReader read,
                                      ThreadTeam& team) {
  HalfMatrixView view = {.rows = rows, .panels = DivideUp(cols, kPanelColumns)};
  const size_t padded_rows = size_t{DivideUp(rows, kTileRows)} * kTileRows;
  ImageLayout layout;
  const auto fragments = layout.Add<uint16_t>(padded_rows * view.panels * kPanelColumns);
  const auto scales = layout.Add<float>(padded_rows);
  MatrixImage image = {.rows = rows, .cols = cols, .bytes = layout.Allocate()};

  std::atomic<uint32_t> bad_row{std::numeric_limits<uint32_t>::max()};
  uint16_t* const halves = fragments.In(image);
  float* const row_scales = scales.In(image);
  team.ParallelFor(DivideUp(rows, kTileRows), 1, [&](size_t begin, size_t end, int) {
    std::vector<float> values(size_t{kTileRows} * cols);
    for (auto first = static_cast<uint32_t>(begin) * kTileRows; first < end * kTileRows;
         first += kTileRows) {
      const uint32_t count = std::min(kTileRows, rows - first);
      read(first, count, values.data());
      for (uint32_t row = first; row < first + count; ++row) {
        const absl::Span<const float> of_row(&values[size_t{row - first} * cols], cols);
        const float largest = LargestMagnitude(of_row);
        if (!std::isfinite(largest)) {
          bad_row = row;
          continue;
        }
        row_scales[row] = HalfScale(largest);
        for (uint32_t c = 0; c < cols; ++c) {
          halves[FragmentPlace<uint16_t>(row, c, view.panels)] =
              FloatToHalf(of_row[c] / row_scales[row]);
        }
      }
    }
  });
  if (bad_row != std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("row ", bad_row.load(), " has a value that is not finite"));
  }
  view.fragments = reinterpret_cast<const uint32_t*>(halves);
  view.scales = row_scales;
  image.view = view;
  return image;
}

MatrixImage ByteImage(const IcquantMatrix& matrix, ThreadTeam& team) {
  const auto rows = static_cast<uint32_t>(matrix.rows());
  const auto cols = static_cast<uint32_t>(matrix.cols());
  ByteMatrixView view = {.rows = rows, .panels = DivideUp(cols, kPanelColumns)};
  const size_t padded_rows = size_t{DivideUp(rows, kTileRows)} * kTileRows;
  ImageLayout layout;
  const auto fragments = layout.Add<uint8_t>(padded_rows * view.panels * kPanelColumns);
  const auto scales = layout.Add<float>(padded_rows);
  const auto offsets = layout.Add<float>(padded_rows);
  MatrixImage image = {.rows = rows, .cols = cols, .bytes = layout.Allocate()};

  uint8_t* const bytes = fragments.In(image);
  team.ParallelFor(rows, kTileRows, [&](size_t begin, size_t end, int) {
    for (auto row = static_cast<uint32_t>(begin); row < end; ++row) {
      scales.In(image)[row] = matrix.scale(row);
      offsets.In(image)[row] = matrix.offset(row);
      const uint8_t* const codes = matrix.row_codes(row);
      for (uint32_t c = 0; c < cols; ++c) {
        bytes[FragmentPlace<uint8_t>(row, c, view.panels)] =
            static_cast<uint8_t>(RowCode(codes, /*bits=*/8, cols, c));
      }
    }
  });
  view.fragments = reinterpret_cast<const uint32_t*>(bytes);
  view.scales = scales.In(image);
  view.offsets = offsets.In(image);
  image.view = view;
  return image;
}

}  // namespace quantloom::cuda
