#include "kernels/cuda/icquant_image.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/base/float16.h"
#include "core/base/status.h"
#include "core/codec/code_packing.h"
#include "core/codec/gap_code.h"
#include "kernels/cuda/dense_image.h"
#include "kernels/cuda/image_layout.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kLanes = 32;
constexpr uint32_t kCodesOfLane = 8;  // of a row and step

static_assert(kSegmentColumns == kGapSegmentColumns);

constexpr uint32_t kSteps = kLaneColumns / kCodesOfLane;

// The words of one lane and panel, being filled.
class PanelWriter {
 public:
  PanelWriter(int bits, uint32_t* words) : bits_(bits), words_(words) {}

  // `half`: row g or g + 8.
  void Set(uint32_t step, uint32_t half, uint32_t i, uint32_t code) {
    switch (bits_) {
      case 1:
        SetBit(0, step, half, i, code);
        break;
      case 2:
        words_[step] |= code << (4 * i + 2 * half);
        break;
      case 3:
        words_[step] |= (code & 3) << (4 * i + 2 * half);
        SetBit(4, step, half, i, code >> 2);
        break;
      default:
        words_[2 * step + half] |= code << (4 * i);
    }
  }

 private:
  void SetBit(uint32_t first_word, uint32_t step, uint32_t half, uint32_t i, uint32_t bit) {
    words_[first_word + step / 2] |= bit << (4 * i + 2 * (step % 2) + half);
  }

  int bits_;
  uint32_t* words_;
};

// The codes of one lane and panel; columns and rows that the matrix lacks are zero.
void PackLane(const IcquantMatrix& matrix, uint32_t row_tile, uint32_t panel, uint32_t lane,
              uint32_t* words) {
  const int bits = matrix.code_bits();
  PanelWriter writer(bits, words);
  for (uint32_t half = 0; half < 2; ++half) {
    const uint64_t row = row_tile * kTileRows + lane / 4 + 8 * half;
    if (row >= matrix.rows()) continue;
    const uint64_t first = uint64_t{panel} * kPanelColumns + lane % 4 * kLaneColumns;
    const uint8_t* const codes = matrix.row_codes(row);
    for (uint32_t i = 0; i < kLaneColumns && first + i < matrix.cols(); ++i) {
      writer.Set(i / kCodesOfLane, half, i % kCodesOfLane,
                 RowCode(codes, bits, matrix.cols(), first + i));
    }
  }
}

void PackCodesOf(const IcquantMatrix& matrix, uint32_t panels, uint32_t* out, ThreadTeam& team) {
  const int bits = matrix.code_bits();
  const uint32_t panel_words = PanelWords(bits);
  const uint32_t row_tiles = DivideUp(static_cast<uint32_t>(matrix.rows()), kTileRows);
  team.ParallelFor(row_tiles, 1, [&](size_t begin, size_t end, int) {
    uint32_t* panel_out = out + begin * panels * kLanes * panel_words;
    for (size_t row_tile = begin; row_tile < end; ++row_tile) {
      for (uint32_t panel = 0; panel < panels; ++panel, panel_out += kLanes * panel_words) {
        for (uint32_t lane = 0; lane < kLanes; ++lane) {
          uint32_t words[8] = {};
          PackLane(matrix, static_cast<uint32_t>(row_tile), panel, lane, words);
          for (uint32_t word = 0; word < panel_words; ++word) {
            panel_out[LaneWordPlace(panel_words, lane, word)] = words[word];
          }
        }
      }
    }
  });
}

// The outliers of a row's segment, relative to it, ascending.
std::vector<uint32_t> SegmentOutliers(const IcquantMatrix& matrix, uint32_t row, uint32_t segment) {
  constexpr uint32_t kBlocks = kSegmentColumns / 64;
  const uint64_t blocks = (matrix.cols() + 63) / 64;
  const uint64_t first = uint64_t{segment} * kBlocks;
  uint64_t words[kBlocks] = {};
  matrix.OutlierBitmap(row, first, std::min<uint64_t>(kBlocks, blocks - first), words);
  std::vector<uint32_t> columns;
  for (uint32_t block = 0; block < kBlocks; ++block) {
    for (uint64_t left = words[block]; left != 0; left &= left - 1) {
      columns.push_back(64 * block + static_cast<uint32_t>(std::countr_zero(left)));
    }
  }
  return columns;
}

// The outlier index, as IcquantView has it.
struct PackedOutliers {
  std::vector<uint8_t> symbols;  // bytes of the stream
  std::vector<uint32_t> first_symbol;
  std::vector<uint8_t> counts;
};

absl::StatusOr<PackedOutliers> PackOutliersOf(const IcquantMatrix& matrix, uint32_t segments) {
  PackedOutliers packed;
  const auto rows = static_cast<uint32_t>(matrix.rows());
  const uint32_t row_tiles = DivideUp(rows, kTileRows);
  const int symbol_bits = matrix.options().index_bits;
  packed.counts.assign(size_t{row_tiles} * segments * kTileRows, 0);
  packed.first_symbol.reserve(size_t{row_tiles} * segments);
  uint64_t symbols = 0;
  for (uint32_t row_tile = 0; row_tile < row_tiles; ++row_tile) {
    for (uint32_t segment = 0; segment < segments; ++segment) {
      packed.first_symbol.push_back(static_cast<uint32_t>(symbols));
      uint8_t* counts = &packed.counts[(size_t{row_tile} * segments + segment) * kTileRows];
      for (uint32_t r = 0; r < kTileRows && row_tile * kTileRows + r < rows; ++r) {
        const std::vector<uint32_t> columns =
            SegmentOutliers(matrix, row_tile * kTileRows + r, segment);
        counts[r] = static_cast<uint8_t>(SegmentSymbols(columns, symbol_bits));
        packed.symbols.resize(((symbols + counts[r]) * static_cast<uint64_t>(symbol_bits) + 7) / 8);
        WriteSegment(columns, symbol_bits, symbols, packed.symbols.data());
        symbols += counts[r];
      }
    }
  }
  if (symbols > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError("more than 2^32 - 1 outlier symbols");
  }
  return packed;
}

bool SharesCentroids(const IcquantMatrix& matrix) {
  return matrix.integer_form() &&
         (matrix.rows() == 1 || matrix.centroids(0) == matrix.centroids(1));
}

// A row's levels as fp16 under a scale, which is returned: low bytes, then high bytes.
float PackHalfLevels(const IcquantMatrix& matrix, uint32_t row, uint32_t words, uint8_t* out) {
  float values[32];
  matrix.RowLevels(row, values);
  float largest = 0;
  for (uint32_t i = 0; i < matrix.levels(); ++i) largest = std::max(largest, std::fabs(values[i]));
  const float scale = HalfScale(largest);
  for (uint32_t i = 0; i < matrix.levels(); ++i) {
    const uint16_t half = FloatToHalf(values[i] / scale);
    out[i] = static_cast<uint8_t>(half);
    out[4 * words + i] = static_cast<uint8_t>(half >> 8);
  }
  return scale;
}

}  // namespace

bool HasIcquantImage(const IcquantMatrix& matrix) { return matrix.code_bits() <= 4; }

absl::StatusOr<MatrixImage> IcquantImage(const IcquantMatrix& matrix, ThreadTeam& team) {
  const auto rows = static_cast<uint32_t>(matrix.rows());
  const auto cols = static_cast<uint32_t>(matrix.cols());
  const uint32_t padded_rows = DivideUp(rows, kTileRows) * kTileRows;
  const uint32_t words = CentroidWords(matrix.code_bits(), matrix.has_outliers());
  const uint32_t tables = SharesCentroids(matrix) ? 1 : padded_rows;
  const uint32_t level_bytes = matrix.integer_form() ? 1 : 2;
  IcquantView view = {.rows = rows,
                      .panels = DivideUp(cols, kPanelColumns),
                      .segments = DivideUp(cols, kSegmentColumns),
                      .symbol_bits = static_cast<uint32_t>(matrix.options().index_bits),
                      .level_stride = tables == 1 ? 0 : words * level_bytes,
                      .level_bytes = level_bytes,
                      .bits = static_cast<uint32_t>(matrix.code_bits())};
  PackedOutliers outliers;
  if (matrix.has_outliers()) {
    QL_ASSIGN_OR_RETURN(outliers, PackOutliersOf(matrix, view.segments));
  }

  ImageLayout layout;
  const auto codes = layout.Add<uint32_t>(size_t{padded_rows / kTileRows} * view.panels * kLanes *
                                          PanelWords(matrix.code_bits()));
  const auto levels = layout.Add<uint32_t>(size_t{tables} * words * level_bytes);
  const auto scales = layout.Add<float>(padded_rows);
  const auto offsets = layout.Add<float>(matrix.integer_form() ? padded_rows : 0);
  const auto symbols = layout.Add<uint32_t>(outliers.symbols.size() / 4 + 2);
  const auto first_symbol = layout.Add<uint32_t>(outliers.first_symbol.size());
  const auto counts = layout.Add<uint8_t>(outliers.counts.size());
  MatrixImage image = {.rows = rows, .cols = cols, .bytes = layout.Allocate()};

  PackCodesOf(matrix, view.panels, codes.In(image), team);
  for (uint32_t row = 0; row < std::min(rows, tables); ++row) {
    auto* const table =
        reinterpret_cast<uint8_t*>(levels.In(image) + size_t{row} * words * level_bytes);
    if (matrix.integer_form()) {
      std::memcpy(table, matrix.centroids(row), matrix.levels());
    } else {
      scales.In(image)[row] = PackHalfLevels(matrix, row, words, table);
    }
  }
  if (matrix.integer_form()) {
    for (uint32_t row = 0; row < rows; ++row) {
      scales.In(image)[row] = matrix.scale(row);
      offsets.In(image)[row] = matrix.offset(row);
    }
    view.offsets = offsets.In(image);
  }
  view.codes = codes.In(image);
  view.levels = levels.In(image);
  view.scales = scales.In(image);
  if (matrix.has_outliers()) {
    static_assert(std::endian::native == std::endian::little);
    std::copy(outliers.symbols.begin(), outliers.symbols.end(),
              reinterpret_cast<uint8_t*>(symbols.In(image)));
    std::copy(outliers.first_symbol.begin(), outliers.first_symbol.end(), first_symbol.In(image));
    std::copy(outliers.counts.begin(), outliers.counts.end(), counts.In(image));
    view.symbols = symbols.In(image);
    view.first_symbol = first_symbol.In(image);
    view.counts = counts.In(image);
  }
  image.view = view;
  return image;
}

}  // namespace quantloom::cuda
