#include "kernels/cuda/icquant_tiles.h"

#include <bit>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/codec/code_packing.h"
#include "core/codec/gap_code.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kLanes = 32;
constexpr uint32_t kCodesOfLane = 8;  // of a row and step

static_assert(kSegmentColumns == kGapSegmentColumns);

// Column of a lane's code i within its step.
uint32_t ColumnOfCode(uint32_t lane, uint32_t i) { return i / 4 * 16 + lane % 4 * 4 + i % 4; }

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

// Where word `word` of a lane's panel is stored, in words from the panel's beginning.
uint32_t StoredPlace(int bits, uint32_t lane, uint32_t word) {
  const uint32_t part_words = bits == 1 || (bits == 3 && word >= 4) ? 2 : 4;
  const uint32_t part_begin = bits == 1 ? 0 : word / 4 * 4;
  return part_begin * kLanes + lane * part_words + (word - part_begin);
}

void PackCodesOf(const IcquantMatrix& matrix, IcquantTiles& tiles) {
  const uint32_t row_tiles = DivideUp(tiles.rows, kTileRows);
  const uint32_t panel_words = PanelWords(tiles.bits);
  tiles.codes.assign(size_t{row_tiles} * tiles.panels * kLanes * panel_words, 0);
  uint32_t* out = tiles.codes.data();
  for (uint32_t row_tile = 0; row_tile < row_tiles; ++row_tile) {
    for (uint32_t panel = 0; panel < tiles.panels; ++panel, out += kLanes * panel_words) {
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        uint32_t words[8] = {};
        PanelWriter writer(tiles.bits, words);
        for (uint32_t half = 0; half < 2; ++half) {
          const uint32_t row = row_tile * kTileRows + lane / 4 + 8 * half;
          if (row >= tiles.rows) continue;
          const uint8_t* codes = matrix.row_codes(row);
          for (uint32_t step = 0; step < kPanelSteps; ++step) {
            for (uint32_t i = 0; i < kCodesOfLane; ++i) {
              const uint32_t column =
                  panel * kPanelColumns + step * kStepColumns + ColumnOfCode(lane, i);
              if (column >= tiles.cols) continue;
              writer.Set(step, half, i, RowCode(codes, tiles.bits, tiles.cols, column));
            }
          }
        }
        for (uint32_t word = 0; word < panel_words; ++word) {
          out[StoredPlace(tiles.bits, lane, word)] = words[word];
        }
      }
    }
  }
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

absl::Status PackOutliersOf(const IcquantMatrix& matrix, IcquantTiles& tiles) {
  const uint32_t row_tiles = DivideUp(tiles.rows, kTileRows);
  const int symbol_bits = static_cast<int>(tiles.symbol_bits);
  tiles.counts.assign(size_t{row_tiles} * tiles.segments * kTileRows, 0);
  tiles.first_symbol.reserve(size_t{row_tiles} * tiles.segments);
  std::vector<uint8_t> stream;
  uint64_t symbols = 0;
  for (uint32_t row_tile = 0; row_tile < row_tiles; ++row_tile) {
    for (uint32_t segment = 0; segment < tiles.segments; ++segment) {
      tiles.first_symbol.push_back(static_cast<uint32_t>(symbols));
      uint8_t* counts = &tiles.counts[(size_t{row_tile} * tiles.segments + segment) * kTileRows];
      for (uint32_t r = 0; r < kTileRows && row_tile * kTileRows + r < tiles.rows; ++r) {
        const std::vector<uint32_t> columns =
            SegmentOutliers(matrix, row_tile * kTileRows + r, segment);
        counts[r] = static_cast<uint8_t>(SegmentSymbols(columns, symbol_bits));
        stream.resize(((symbols + counts[r]) * tiles.symbol_bits + 7) / 8);
        WriteSegment(columns, symbol_bits, symbols, stream.data());
        symbols += counts[r];
      }
    }
  }
  if (symbols > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError("more than 2^32 - 1 outlier symbols");
  }
  static_assert(std::endian::native == std::endian::little);
  tiles.symbols.assign(stream.size() / 4 + 2, 0);
  std::memcpy(tiles.symbols.data(), stream.data(), stream.size());
  return absl::OkStatus();
}

void PackLevelsOf(const IcquantMatrix& matrix, IcquantTiles& tiles) {
  const uint32_t padded_rows = DivideUp(tiles.rows, kTileRows) * kTileRows;
  const uint32_t words = CentroidWords(tiles.bits, tiles.outliers);
  const bool shared = tiles.rows == 1 || matrix.centroids(0) == matrix.centroids(1);
  tiles.centroid_stride = shared ? 0 : words;
  tiles.centroids.assign(shared ? words : size_t{padded_rows} * words, 0);
  for (uint32_t row = 0; row < (shared ? 1 : tiles.rows); ++row) {
    std::memcpy(&tiles.centroids[size_t{row} * words], matrix.centroids(row), matrix.levels());
  }
  tiles.scales.assign(padded_rows, 0);
  tiles.offsets.assign(padded_rows, 0);
  for (uint32_t row = 0; row < tiles.rows; ++row) {
    tiles.scales[row] = matrix.scale(row);
    tiles.offsets[row] = matrix.offset(row);
  }
}

}  // namespace

absl::StatusOr<IcquantTiles> MakeIcquantTiles(const IcquantMatrix& matrix) {
  constexpr uint64_t kMost = uint64_t{1} << 31;
  if (!matrix.integer_form() || matrix.code_bits() > 4) {
    return absl::InvalidArgumentError(
        absl::StrCat("tiles are made of the forms int8 and tensor with 1 to 4 bits, not of ",
                     matrix.options().ToRecipe(/*stored=*/true)));
  }
  if (matrix.rows() > kMost || matrix.cols() > kMost) {
    return absl::InvalidArgumentError("more than 2^31 rows or columns");
  }
  IcquantTiles tiles;
  tiles.bits = matrix.code_bits();
  tiles.outliers = matrix.has_outliers();
  tiles.rows = static_cast<uint32_t>(matrix.rows());
  tiles.cols = static_cast<uint32_t>(matrix.cols());
  tiles.panels = DivideUp(tiles.cols, kPanelColumns);
  tiles.segments = DivideUp(tiles.cols, kSegmentColumns);
  PackCodesOf(matrix, tiles);
  PackLevelsOf(matrix, tiles);
  if (!tiles.outliers) return tiles;
  tiles.symbol_bits = static_cast<uint32_t>(matrix.options().index_bits);
  if (absl::Status status = PackOutliersOf(matrix, tiles); !status.ok()) return status;
  return tiles;
}

IcquantView IcquantTiles::View() const {
  return {.codes = codes.data(),
          .symbols = outliers ? symbols.data() : nullptr,
          .first_symbol = first_symbol.data(),
          .counts = counts.data(),
          .centroids = centroids.data(),
          .scales = scales.data(),
          .offsets = offsets.data(),
          .rows = rows,
          .panels = panels,
          .segments = segments,
          .symbol_bits = symbol_bits,
          .centroid_stride = centroid_stride};
}

}  // namespace quantloom::cuda
