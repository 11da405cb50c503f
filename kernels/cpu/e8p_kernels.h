// What QuIP#'s operator and its product share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/product_range.h"

namespace quantloom::cpu {

struct E8pView {
  static constexpr size_t kRows = 4;  // decoded together

  const uint8_t* codes;  // [rows, vectors, bits]: a tile of e8p_tiles.h is `bits` bytes
  size_t vectors;        // of 8 columns
  int bits;              // 2, 3 or 4
  float second_unit;     // of the second stage's integers, in units of the first's; 0 at 2 bits
  const float* scales;   // [rows]
};

// With S and S' the sums of a row's stages in linear.h's integer form, y = scale * S, or
// scale * fma(second_unit, S', S).
void MultiplyE8p(const E8pView& view, const Activations& x, const ProductRange& range);

}  // namespace quantloom::cpu
