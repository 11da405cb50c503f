// QuIP#'s matrices as operators.
#pragma once

#include <memory>

#include "core/codec/e8p.h"
#include "core/codec/tile_matrix.h"
#include "kernels/cpu/linear.h"

namespace quantloom::cpu {

// Copies the tiles into huge pages. `matrix` has no outliers.
std::unique_ptr<LinearOperator> MakeE8pOperator(std::unique_ptr<TileMatrix> matrix,
                                                const E8pRate& rate);

}  // namespace quantloom::cpu
