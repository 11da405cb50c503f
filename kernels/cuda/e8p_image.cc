#include "kernels/cuda/e8p_image.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/image_layout.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kLanes = 32;
constexpr uint32_t kVectors = kLaneColumns / kE8Dimensions;  // of a lane and row

// Adds vector v's code to a row's words of indices and signs.
void PutE8p(uint32_t code, uint32_t v, uint32_t* words) {
  const uint32_t first_sign = static_cast<uint32_t>(std::popcount(code & 0xFEu)) & 1;
  const uint32_t signs = (code & 0xFEu) | (first_sign ^ (code & 1));
  words[0] |= code >> 8 << (8 * v);
  for (uint32_t i = 0; i < kE8Dimensions; ++i) words[1] |= (signs >> i & 1) << (4 * i + v);
}

void PackLane(const TileMatrix& matrix, uint32_t row_tile, uint32_t panel, uint32_t lane,
              uint32_t bits, uint32_t* words) {
  for (uint32_t half = 0; half < 2; ++half) {
    const uint64_t row = row_tile * kTileRows + lane / 4 + 8 * half;
    if (row >= matrix.rows()) continue;
    const uint64_t first =
        (uint64_t{panel} * kPanelColumns + lane % 4 * kLaneColumns) / kE8Dimensions;
    const uint64_t there = std::max(matrix.grid().col_tiles, first) - first;
    for (uint32_t v = 0; v < std::min<uint64_t>(kVectors, there); ++v) {
      const uint8_t* const code = matrix.tile(row, first + v);
      PutE8p(code[0] | uint32_t{code[1]} << 8, v, words + 2 * half);
      if (bits == 3) words[4 + half] |= uint32_t{code[2]} << (8 * v);
      if (bits == 4) PutE8p(code[2] | uint32_t{code[3]} << 8, v, words + 4 + 2 * half);
    }
  }
}

// Selectors of the table's entries: nibble i is the magnitude's number, 4 more where it is negated.
void FillSelectors(uint32_t* selectors) {
  for (int entry = 0; entry < 256; ++entry) {
    selectors[entry] = 0;
    for (int i = 0; i < kE8Dimensions; ++i) {
      const int8_t value = kE8pTable.entry[entry][i];
      const int magnitude = std::abs(value);
      const auto nibble = static_cast<uint32_t>((magnitude - 2) / 4 + (value < 0 ? 4 : 0));
      selectors[entry] |= nibble << (4 * i);
    }
  }
}

}  // namespace

MatrixImage E8pImage(const TileMatrix& matrix, const E8pRate& rate, ThreadTeam& team) {
  const auto rows = static_cast<uint32_t>(matrix.rows());
  const auto bits = static_cast<uint32_t>(rate.bits);
  const uint32_t row_tiles = DivideUp(rows, kTileRows);
  const uint32_t lane_words = E8pLaneWords(bits);
  E8pView view = {.rows = rows,
                  .panels = DivideUp(static_cast<uint32_t>(matrix.cols()), kPanelColumns),
                  .bits = bits,
                  .second_unit = bits == 2 ? 0 : rate.residual_step() / kE8pUnit};
  const size_t row_tile_words = size_t{view.panels} * kLanes * lane_words;
  ImageLayout layout;
  const auto codes = layout.Add<uint32_t>(row_tiles * row_tile_words);
  const auto scales = layout.Add<float>(size_t{row_tiles} * kTileRows);
  const auto selectors = layout.Add<uint32_t>(256);
  const auto one_bit = layout.Add<int8_t>(sizeof(kE8OneBitTable));
  MatrixImage image = {.rows = rows, .cols = matrix.cols(), .bytes = layout.Allocate()};

  team.ParallelFor(row_tiles, 1, [&](size_t begin, size_t end, int) {
    uint32_t* out = codes.In(image) + begin * row_tile_words;
    for (auto row_tile = static_cast<uint32_t>(begin); row_tile < end; ++row_tile) {
      for (uint32_t panel = 0; panel < view.panels; ++panel, out += kLanes * lane_words) {
        for (uint32_t lane = 0; lane < kLanes; ++lane) {
          uint32_t words[8] = {};
          PackLane(matrix, row_tile, panel, lane, bits, words);
          for (uint32_t i = 0; i < lane_words; ++i) {
            out[LaneWordPlace(lane_words, lane, i)] = words[i];
          }
        }
      }
    }
  });
  // Powers of two: exact.
  for (uint32_t row = 0; row < rows; ++row) scales.In(image)[row] = matrix.scale(row) * kE8pUnit;
  FillSelectors(selectors.In(image));
  std::memcpy(one_bit.In(image), kE8OneBitTable.entry, sizeof(kE8OneBitTable));
  view.codes = codes.In(image);
  view.scales = scales.In(image);
  view.selectors = selectors.In(image);
  view.one_bit = reinterpret_cast<const uint32_t*>(one_bit.In(image));
  image.view = view;
  return image;
}

}  // namespace quantloom::cuda
