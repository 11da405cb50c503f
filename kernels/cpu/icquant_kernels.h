// What the ICQuant operator and its two products share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec/icquant_matrix.h"
#include "kernels/cpu/icquant_stream.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/product_range.h"

namespace quantloom::cpu {

// Products of the integer form with up to so many bits read kInt8Wide, others kInt8 or kInt16.
inline constexpr int kMaxWideBits = 3;

// An ICQuant matrix laid out for the kernels.
struct IcquantView {
  const IcquantMatrix* matrix;
  size_t steps;  // blocks of 64 columns of a row, the last one widened by zeros

  // Integer form, n <= 4.
  const IcquantStream* stream;
  // The other forms: rows of whole blocks.
  const uint8_t* codes;  // [rows, code_stride bytes]
  size_t code_stride;
  const uint64_t* outliers;  // [rows, steps]: bit c of a step's word is column c; null without

  // Integer form.
  const float* scales;   // [rows]
  const float* offsets;  // [rows], or null
};

// value = scale * q + offset. A row's sum S of products with q gives
// y = fma(offset, total of the activations, scale * S).
void MultiplyIcquantInteger(const IcquantView& view, const Activations& x,
                            const ProductRange& range);

// Any table of levels, in the float form.
void MultiplyIcquantFloat(const IcquantView& view, const Activations& x, const ProductRange& range);

}  // namespace quantloom::cpu
