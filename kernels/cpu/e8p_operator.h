// QuIP#'s matrices as operators.
#pragma once

#include <memory>
#include <optional>

#include "core/codec/e8p.h"
#include "core/codec/tile_matrix.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// The rate of a matrix that MakeE8pOperator takes, a TileMatrix without outliers; nullopt for
// others.
std::optional<E8pRate> PlainE8p(const PackedMatrix& matrix);

// Reads the codes where they are stored.
std::unique_ptr<LinearOperator> MakeE8pOperator(std::unique_ptr<TileMatrix> matrix,
                                                const E8pRate& rate);

}  // namespace quantloom::cpu
