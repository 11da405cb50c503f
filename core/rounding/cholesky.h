// Cholesky factorization of a symmetric positive definite fp64 matrix, blocked by panels of 48
// columns. Own loops instead of LAPACK: the bits depend neither on threads nor on the SIMD target.
#pragma once

#include <cstdint>

#include "core/base/parallel.h"

namespace quantloom {

// Overwrites the lower half of the row-major matrix a [n, n] with C, a = C C^T; the upper half is
// neither read nor written. False, with the lower half spoilt, when a pivot is not above
// `smallest_pivot` (or is NaN): a is not positive definite to working precision. About n^3 / 6
// multiply-adds.
bool CholeskyInPlace(double* a, uint64_t n, double smallest_pivot, ThreadTeam& team);

}  // namespace quantloom
