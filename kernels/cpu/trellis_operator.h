// QTIP's matrices of 1 to 4 bits as operators. kernels/cpu/decoded_operator.h has the others.
#pragma once

#include <memory>
#include <optional>

#include "core/codec/tile_matrix.h"
#include "core/codec/trellis.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// The format of a QTIP matrix without outliers, a TileMatrix; nullopt for others.
std::optional<TrellisFormat> PlainTrellis(const PackedMatrix& matrix);

// Whether MakeTrellisOperator takes the format.
bool HasTrellisProduct(const TrellisFormat& format);

// Copies the tiles, rearranged for the kernel.
std::unique_ptr<LinearOperator> MakeTrellisOperator(std::unique_ptr<TileMatrix> matrix,
                                                    const TrellisFormat& format);

}  // namespace quantloom::cpu
