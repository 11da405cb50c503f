// The products that product.cu chooses from, one for each form of matrix; contract as in product.h.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

const char* MultiplyForm(const HalfMatrixView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream);
const char* MultiplyForm(const ByteMatrixView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream);
const char* MultiplyForm(const IcquantView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream);
const char* MultiplyForm(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream);
const char* MultiplyForm(const E8pView& w, const Activations& x, float* y, uint32_t stride,
                         Stream stream);

// QTIP's, by code.
const char* MultiplyByteSums(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                             Stream stream);
const char* Multiply3Inst(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                          Stream stream);
const char* MultiplyHyb(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                        Stream stream);

}  // namespace quantloom::cuda
