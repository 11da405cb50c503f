// A trellis code's states as trellis.h defines them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec/trellis.h"

namespace quantloom {

// The 16-bit state of a step, read bit by bit from a tile's ring.
inline uint32_t TrellisState(const TrellisFormat& format, const uint8_t* tile, int step) {
  const int twice_step_bits = format.half_bits() * format.weights_per_step();
  uint32_t state = 0;
  for (int i = 0; i < 16; ++i) {
    const size_t at = static_cast<size_t>(step * twice_step_bits / 2 + i) % format.tile_bits();
    state |= static_cast<uint32_t>(tile[at / 8] >> (at % 8) & 1) << i;
  }
  return state;
}

}  // namespace quantloom
