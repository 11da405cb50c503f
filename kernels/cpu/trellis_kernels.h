// What QTIP's operator and its product share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec/trellis_code.h"
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

  static constexpr size_t StepBytes(int half_bits) {
    return kTileRows * kStepTiles * static_cast<size_t>(half_bits);
  }

  const uint8_t* bits;  // [row tiles, steps, kTileRows, kStepTiles, half_bits]
  int half_bits;        // twice the bits per weight: 2 .. 8
  size_t steps;
  const float* scales;  // [row tiles * kTileRows]
};

// Rows decoded to int16, for products with several activation rows: in each step's 128 bytes first
// the columns 4 l and 4 l + 1 of lanes l = 0 .. 15, then 4 l + 2 and 4 l + 3.
struct TrellisPanel {
  static constexpr size_t kRows = 4;        // decoded together
  static constexpr size_t kStepWords = 32;  // of 32 bits

  int32_t* words;  // [kRows, stride]; not read for one activation row
  size_t stride;
};

// y = scale * S, S the row's sum in linear.h's integer form, its weights the integers that states
// stand for:
//   MUL1, 1MAD  the code's integer. At most 16 * 510 * 127 < 2^24 in a block: exact.
//   3INST       the sum of the two halves in units of 2^-13. The codec rounds it to binary16, to 11
//               significant bits; a product does not, and is off by at most 2^-11 of each weight.
//   HYB         the pair's numbers in units of 2^-9, rounded: off by at most 2^-10.
// The latter two are below 2^15: a block's sum is below 2^26, and rounded to fp32 before its scale.
void MultiplyMul1Trellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                         const TrellisPanel& panel);
void Multiply1MadTrellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                         const TrellisPanel& panel);
void Multiply3InstTrellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                          const TrellisPanel& panel);
void MultiplyHybTrellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                        const TrellisPanel& panel);

// What those integers count.
inline constexpr float k3InstUnit = 0x1p-13f;
inline constexpr float kHybUnit = 0x1p-9f;

}  // namespace quantloom::cpu
