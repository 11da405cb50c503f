// ICQuant matrices as operators.
#pragma once

#include <memory>

#include "core/codec/icquant_matrix.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// Integer form: rows of up to 4 bits become a stream (icquant_stream.h), of 8 bits are copied.
// Float form: the outlier index becomes a bit for each weight; codes stay where they are if rows
// are blocks of 64 columns. `form`: of integer forms, kInt8 or kInt16; others read floats.
std::unique_ptr<LinearOperator> MakeIcquantOperator(std::unique_ptr<IcquantMatrix> matrix,
                                                    ActivationForm form);

}  // namespace quantloom::cpu
