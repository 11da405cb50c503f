// Matrices of any codec as operators: rows are decoded by PackedMatrix::DecodeTile and multiplied
// in the float form. What a codec without a kernel of its own runs on, and what its kernel is
// compared with.
#pragma once

#include <memory>

#include "core/codec/codec.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

std::unique_ptr<LinearOperator> MakeDecodedOperator(std::unique_ptr<PackedMatrix> matrix);

}  // namespace quantloom::cpu
