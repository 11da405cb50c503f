// QTIP's matrices as operators, where the code is a sum of bytes: MUL1 and 1MAD, 1 to 4 bits.
#pragma once

#include <memory>
#include <optional>

#include "core/codec/tile_matrix.h"
#include "core/codec/trellis.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// The format of a matrix that MakeTrellisOperator takes, a TileMatrix without outliers; nullopt for
// others.
std::optional<TrellisFormat> ByteSumTrellis(const PackedMatrix& matrix);

// Copies the tiles, rearranged for the kernel.
std::unique_ptr<LinearOperator> MakeTrellisOperator(std::unique_ptr<TileMatrix> matrix,
                                                    const TrellisFormat& format);

}  // namespace quantloom::cpu
