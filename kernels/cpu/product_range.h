// The part of a product that one call of a kernel computes.
#pragma once

#include <cstddef>

namespace quantloom::cpu {

// Rows and tokens of one call: y[t * stride + r] for r in [row_begin, row_end) and t in
// [0, tokens), the latter being x's rows first_token + t.
struct ProductRange {
  size_t row_begin, row_end;
  size_t first_token, tokens;
  float* y;  // the first token's outputs
  size_t stride;
};

}  // namespace quantloom::cpu
