// Matrices whose elements are stored as they are multiplied: HalfMatrixView, ByteMatrixView.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/codec/icquant_matrix.h"
#include "kernels/cuda/matrix_image.h"

namespace quantloom::cuda {

// Writes the values of rows [first, first + count), row after row; count <= 16, first a multiple
// of 16.
using RowsReader = absl::FunctionRef<void(uint64_t first, uint64_t count, float* values)>;

// What a row's values are divided by before they become fp16: the power of two with which the
// largest magnitude is in [2^15, 2^16), rounding included. 1 for 0.
float HalfScale(float largest);

// fp16 elements and a HalfScale for each row. INVALID_ARGUMENT naming the row of a value that is
// not finite.
absl::StatusOr<MatrixImage> HalfImage(uint32_t rows, uint32_t cols, RowsReader read,
                                      ThreadTeam& team);

// Of a matrix with 8 bits in the integer form and no outliers.
MatrixImage ByteImage(const IcquantMatrix& matrix, ThreadTeam& team);

}  // namespace quantloom::cuda
