// QuIP#'s vectors, rearranged without loss for the product on tensor cores.
//
// Lane 4 g + t owns rows g and g + 8 of a tile and columns 32 t .. 32 t + 31 of a panel: of either
// row four vectors v = 0..3 of eight coordinates i = 0..7. A lane's panel is
//
//   of row g, then of row g + 8   two words: table indices, v in byte v; and signs, (i, v) in bit
//                                 4 i + v
//   3 bits                        a word of either row: second codes, v in byte v
//   4 bits                        the first four words again, of the second codes
//
// Sign (i, v), i >= 1, is bit i of the E8P code. In the place of i = 0 stands the exclusive or of
// coordinate 0's sign and the shift. Coordinate 0's sign is the parity of the others, so the parity
// of all eight bits is the shift, and the parities of four vectors are folded at once.
#pragma once

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/codec/e8p.h"
#include "core/codec/tile_matrix.h"
#include "kernels/cuda/matrix_image.h"

namespace quantloom::cuda {

// The image, with an E8pView, of a matrix of such vectors without outliers.
MatrixImage E8pImage(const TileMatrix& matrix, const E8pRate& rate, ThreadTeam& team);

}  // namespace quantloom::cuda
