// What QuIP#'s operator and its product share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/product_range.h"

namespace quantloom::cpu {

// Rows of a matrix that were decoded to the integers of e8p_table.h.
struct E8pPanel {
  static constexpr size_t kRows = 4;

  const int8_t* first;   // [kRows, stride]
  const int8_t* second;  // the same of the second stage; null without
  size_t stride;         // a multiple of 64; behind the columns anything
  float second_unit;     // of the second stage's integers, in units of the first's
  const float* scales;   // [kRows]
};

// The range's rows are the panel's, from its first one on, at most kRows. With S and S' the sums of
// a row's stages in linear.h's integer form, y = scale * S, or scale * fma(second_unit, S', S).
void MultiplyE8pPanel(const E8pPanel& panel, const Activations& x, const ProductRange& range);

}  // namespace quantloom::cpu
