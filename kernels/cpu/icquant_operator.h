// ICQuant matrices as operators.
#pragma once

#include <memory>

#include "core/codec/icquant_matrix.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// Expands the outlier index to one bit per weight, and, where the columns are no multiple of 64,
// copies the codes with the last block widened; else the codes stay where they are.
std::unique_ptr<LinearOperator> MakeIcquantOperator(std::unique_ptr<IcquantMatrix> matrix);

}  // namespace quantloom::cpu
