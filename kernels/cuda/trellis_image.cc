#include "kernels/cuda/trellis_image.h"

#include <bit>
#include <cstring>

#include "kernels/cuda/image_layout.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kLanes = 32;
constexpr uint32_t kMostHalfBits = 8;
constexpr uint32_t kLaneTiles = 2;

// Copies a lane's bits of its tile `which` (null: past the matrix's edge) into its words.
void PackTile(const uint8_t* tile, uint32_t g, uint32_t half_bits, uint32_t which,
              uint32_t* words) {
  static_assert(std::endian::native == std::endian::little);
  if (tile == nullptr) return;
  const uint8_t* const bits = tile + size_t{g} * 2 * half_bits;
  const uint32_t whole = half_bits / 2;
  const bool shared = half_bits % 2 == 1;
  std::memcpy(words + (which == 0 ? 0 : whole + (shared ? 1 : 0)), bits, size_t{whole} * 4);
  if (!shared) return;
  uint16_t last;
  std::memcpy(&last, bits + size_t{whole} * 4, sizeof(last));
  words[whole] |= static_cast<uint32_t>(last) << (16 * which);
}

void PackRowTile(const TileMatrix& matrix, uint32_t row_tile, uint32_t panels, uint32_t half_bits,
                 uint32_t* out) {
  for (uint32_t panel = 0; panel < panels; ++panel, out += kLanes * half_bits) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      uint32_t words[kMostHalfBits] = {};
      for (uint32_t which = 0; which < kLaneTiles; ++which) {
        const uint64_t col_tile =
            uint64_t{panel} * (kPanelColumns / 16) + lane % 4 * kLaneTiles + which;
        const bool there = col_tile < matrix.grid().col_tiles;
        PackTile(there ? matrix.tile(row_tile, col_tile) : nullptr, lane / 4, half_bits, which,
                 words);
      }
      for (uint32_t i = 0; i < half_bits; ++i) out[LaneWordPlace(half_bits, lane, i)] = words[i];
    }
  }
}

}  // namespace

bool HasTrellisImage(const TrellisFormat& format) {
  return format.half_bits() <= static_cast<int>(kMostHalfBits);
}

MatrixImage TrellisImage(const TileMatrix& matrix, const TrellisFormat& format, ThreadTeam& team) {
  const auto rows = static_cast<uint32_t>(matrix.rows());
  const auto half_bits = static_cast<uint32_t>(format.half_bits());
  const uint32_t row_tiles = DivideUp(rows, kTileRows);
  TrellisView view = {.rows = rows,
                      .panels = DivideUp(static_cast<uint32_t>(matrix.cols()), kPanelColumns),
                      .half_bits = half_bits,
                      .code = format.code()};
  const bool hyb = format.code() == TrellisCode::kHyb;
  const size_t row_tile_words = size_t{view.panels} * kLanes * half_bits;
  ImageLayout layout;
  const auto codes = layout.Add<uint32_t>(row_tiles * row_tile_words);
  const auto scales = layout.Add<float>(size_t{row_tiles} * kTileRows);
  const auto table = layout.Add<uint32_t>(hyb ? std::size(kHybTable) : 0);
  MatrixImage image = {.rows = rows, .cols = matrix.cols(), .bytes = layout.Allocate()};

  team.ParallelFor(row_tiles, 1, [&](size_t begin, size_t end, int) {
    for (size_t row_tile = begin; row_tile < end; ++row_tile) {
      PackRowTile(matrix, static_cast<uint32_t>(row_tile), view.panels, half_bits,
                  codes.In(image) + row_tile * row_tile_words);
    }
  });
  const float unit = format.code() == TrellisCode::k1Mad ? k1MadUnit : 1.0f;
  for (uint32_t row = 0; row < rows; ++row) scales.In(image)[row] = matrix.scale(row) * unit;
  view.codes = codes.In(image);
  view.scales = scales.In(image);
  if (hyb) {
    std::memcpy(table.In(image), kHybTable, sizeof(kHybTable));
    view.table = table.In(image);
  }
  image.view = view;
  return image;
}

}  // namespace quantloom::cuda
