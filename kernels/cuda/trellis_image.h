// QTIP's tiles, rearranged without loss for the product on tensor cores.
//
// Lane 4 g + t owns rows 2 g and 2 g + 1 of a tile of 16 rows, and columns 32 t .. 32 t + 31 of a
// panel: two tiles of 16 columns. A tile is a ring of bits in the order of its weights, row by row
// (core/codec/trellis.h), so of each tile the lane's bits are 16 * 2 K consecutive ones; the states
// of its last weights reach into the 16 bits that follow, which lane + 4 has. A lane's panel is
// 2 K words: the first tile's bits, then the second's, but where 2 K is odd, the word between them
// has the last 16 bits of the first in its low half and the last 16 of the second in its high half,
// so that both begin with a word.
#pragma once

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis.h"
#include "kernels/cuda/matrix_image.h"

namespace quantloom::cuda {

// Whether there is a kernel for the rate: 1 to 4 bits.
bool HasTrellisImage(const TrellisFormat& format);

// The image, with a TrellisView, of a matrix of such tiles without outliers.
MatrixImage TrellisImage(const TileMatrix& matrix, const TrellisFormat& format, ThreadTeam& team);

}  // namespace quantloom::cuda
