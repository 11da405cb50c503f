// Decoding of QTIP's tiles to floats, for the codes whose values are binary16 numbers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec/trellis.h"

namespace quantloom::cpu {

// Whether DecodeHalfTrellis takes the format: 3INST and HYB, 1 to 4 bits.
bool IsHalfTrellis(const TrellisFormat& format);

// Tiles side by side, and where their values go: out[r * stride + c] = scales[r] * the value of row
// r and column c (trellis_tiles.h), what DecodeTile gives times the scale.
struct TileRow {
  const uint8_t* tiles;  // one after the other
  size_t count;
  const float* scales;  // [16]
  float* out;           // [16, stride]
  size_t stride;
};
void DecodeHalfTrellis(const TrellisFormat& format, const TileRow& row);

}  // namespace quantloom::cpu
