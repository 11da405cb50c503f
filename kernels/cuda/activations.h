// Activations as the products on tensor cores read them.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Bytes of device memory that activations of a form take.
size_t ActivationBytes(ActivationForm form, uint32_t tokens, uint32_t cols);

// Activations in `memory`, of that many bytes, aligned to 16.
Activations ActivationsAt(ActivationForm form, uint32_t tokens, uint32_t cols, void* memory);

// Converts x [tokens, cols] fp32, rows of `stride` elements. A panel of a token has the scale
//
//   kInt8  max|value| / 127: elements are the nearest integers, off by half a scale at most
//   kHalf  the power of two that brings max|value| into [2^14, 2^15): elements are rounded to 11
//          significant bits, or off by 2^-39 of the panel's largest where that is more (of 2^-100
//          where that is the larger one)
//
// (elements of a panel of zeros are 0). A panel with an infinite or NaN value has a NaN scale, so
// that its products are NaN. Null, or why the kernel could not be launched.
const char* PrepareActivations(const float* x, uint32_t cols, uint32_t stride,
                               const Activations& out, Stream stream);

}  // namespace quantloom::cuda
