// What kernels read and write: plain pointers into device memory, with the shapes and orders of
// what is there.
#pragma once

#include <cstdint>

#include "core/base/host_device.h"

namespace quantloom::cuda {

// Columns of a panel: what a lane loads at once, and what shares one activation scale.
constexpr uint32_t kPanelColumns = 128;
// Columns whose outliers are coded on their own (core/codec/gap_code.h).
constexpr uint32_t kSegmentColumns = 256;
constexpr uint32_t kTileRows = 16;
// Columns of one int8 matrix multiply-accumulate (m16n8k32).
constexpr uint32_t kStepColumns = 32;
constexpr uint32_t kPanelSteps = kPanelColumns / kStepColumns;
constexpr uint32_t kTokenTile = 8;

QL_HOST_DEVICE constexpr uint32_t DivideUp(uint32_t x, uint32_t y) { return (x + y - 1) / y; }

// Words of the codes of a lane and panel (icquant_tiles.h).
QL_HOST_DEVICE constexpr uint32_t PanelWords(int bits) { return 2 * static_cast<uint32_t>(bits); }
// Words of a row's table of centroids, a byte each.
QL_HOST_DEVICE constexpr uint32_t CentroidWords(int bits, bool outliers) {
  return DivideUp((outliers ? 2u : 1u) << bits, 4);
}

// Activation rows quantized to int8, with a scale for each panel of each token. Tokens are padded
// to a multiple of 8, columns to whole panels; padding is zero.
struct Int8ActivationsView {
  // [tokens padded, panels, 4 t, 4 steps, 8]: column 32 step + 4 t + j of the panel is byte j of
  // [t][step], column 32 step + 16 + 4 t + j byte 4 + j, as a lane of MultiplyInt8 reads them.
  const int8_t* codes;
  const float* scales;  // [panels, tokens padded]
  const float* totals;  // [tokens padded]: sum over columns of scale * code
  uint32_t tokens;
  uint32_t panels;
};

// A matrix of ICQuant's integer forms with 1 to 4 bits, laid out for the product (icquant_tiles.h).
struct IcquantView {
  const uint32_t* codes;
  const uint32_t* symbols;       // null without outliers
  const uint32_t* first_symbol;  // [row tiles, segments]
  const uint8_t* counts;         // [row tiles, segments, 16 rows]: symbols of each row
  const uint32_t* centroids;     // [rows padded or 1, words of a row's table]
  const float* scales;           // [rows padded]
  const float* offsets;          // [rows padded]
  uint32_t rows;
  uint32_t panels;
  uint32_t segments;
  uint32_t symbol_bits;
  uint32_t centroid_stride;  // words from one row's table to the next; 0: one for all
};

}  // namespace quantloom::cuda
