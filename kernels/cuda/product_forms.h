// The products that product.cu chooses from, one for each form of matrix; contract as in product.h.
// And the same forms' values for dense_operands.cu.
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

const char* ExpandForm(const HalfMatrixView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream);
const char* ExpandForm(const ByteMatrixView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream);
const char* ExpandForm(const IcquantView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream);
const char* ExpandForm(const TrellisView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream);
const char* ExpandForm(const E8pView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                       Stream stream);

// QTIP's, by code.
const char* ExpandByteSums(const TrellisView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                           Stream stream);
const char* Expand3Inst(const TrellisView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                        Stream stream);
const char* ExpandHyb(const TrellisView& w, uint32_t first_row, uint32_t rows, uint16_t* out,
                      Stream stream);
const char* MultiplyByteSums(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                             Stream stream);
const char* Multiply3Inst(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                          Stream stream);
const char* MultiplyHyb(const TrellisView& w, const Activations& x, float* y, uint32_t stride,
                        Stream stream);

}  // namespace quantloom::cuda
