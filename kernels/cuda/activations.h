// Activations as the products on tensor cores read them.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Where QuantizeActivations writes; shapes and orders are Int8ActivationsView's.
struct Int8Activations {
  int8_t* codes;
  float* scales;
  float* totals;
};

// x [tokens, cols] fp32, rows of `stride` elements, to int8: code = round(value / scale) with
// scale = max|value| / 127 of the token's panel (0 where all are 0). A panel with an infinite or
// NaN value has a NaN scale, so that its products are NaN. Null, or why the kernel could not be
// launched.
const char* QuantizeActivations(const float* x, uint32_t tokens, uint32_t cols, uint32_t stride,
                                const Int8Activations& out, Stream stream);

}  // namespace quantloom::cuda
