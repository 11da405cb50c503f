// QTIP's matrices of 1 to 4 bits as operators. kernels/cpu/decoded_operator.h has the others.
#pragma once

#include <memory>

#include "core/codec/tile_matrix.h"
#include "core/codec/trellis.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// Whether MakeTrellisOperator takes the format.
bool HasTrellisProduct(const TrellisFormat& format);

// Copies the tiles, rearranged for the kernel. `matrix` has no outliers.
std::unique_ptr<LinearOperator> MakeTrellisOperator(std::unique_ptr<TileMatrix> matrix,
                                                    const TrellisFormat& format);

}  // namespace quantloom::cpu
