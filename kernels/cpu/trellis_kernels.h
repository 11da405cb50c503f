// What QTIP's operator and its product share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/product_range.h"

namespace quantloom::cpu {

// Tiles of 16 x 16 laid out for the kernel. A step is four tiles side by side, 64 columns. A tile's
// ring of bits (core/codec/trellis.h) has its 16 rows one after the other, half_bits bytes each:
// here the rows of a step's four tiles are side by side, so that the bits of a row, and those of
// the next into which its last states reach, are 8 half_bits consecutive bytes.
struct TrellisView {
  static constexpr size_t kTileRows = 16;
  static constexpr size_t kStepTiles = 4;
  static constexpr size_t kOverread = 64;  // bytes that may be read behind the last

  static size_t StepBytes(int half_bits) {
    return kTileRows * kStepTiles * static_cast<size_t>(half_bits);
  }

  const uint8_t* bits;  // [row tiles, steps, kTileRows, kStepTiles, half_bits]
  int half_bits;        // twice the bits per weight: 2 .. 8
  uint32_t multiplier;  // a state's value is the sum of the bytes of
  uint32_t addend;      // state * multiplier + addend, less 510
  size_t steps;
  const float* scales;  // [row tiles * kTileRows]
};

// y = scale * S, S the row's sum in linear.h's integer form, its weights the integers that states
// stand for. At most 16 * 510 * 127 < 2^24 in a block: exact.
void MultiplyTrellis(const TrellisView& view, const Activations& x, const ProductRange& range);

}  // namespace quantloom::cpu
