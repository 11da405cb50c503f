// ICQuant matrices of 1 to 4 bits, repacked for the product on tensor cores: codes and the outlier
// index without loss; levels as they are in the integer forms, else as fp16 (HalfScale), which is
// what form fp16 stores, and rounds form range's to 11 significant bits.
//
// Lane 4 g + t owns rows g and g + 8 of a tile and columns 32 t .. 32 t + 31 of a panel, eight a
// step: codes i = 0..7 of either row are columns 32 t + 8 step + i. Within a panel they stand so
// that a constant shift and a mask leave one code in each of the eight nibbles of a word, which is
// how PRMT wants its selectors:
//
//   n = 2   word `step` (0..3): bits 4 i + {0, 1} row g, bits 4 i + {2, 3} row g + 8
//   n = 1   words 0, 1, of steps {0, 1} and {2, 3}: bit 4 i + 2 (step % 2) row g, the next row
//           g + 8
//   n = 3   the low two bits as n = 2, then the high bits as n = 1
//   n = 4   words 2 step and 2 step + 1: bits 4 i .. 4 i + 3 of row g, of row g + 8
//
// Words are stored as LaneWordPlace says.
//
// Symbols of the outlier index keep their code; those of the 16 rows of a tile follow each other
// segment by segment, with the number of the first one and each row's count beside them, so that 16
// lanes can decode a row each. Two words of zeros follow, for reads of two words.
#pragma once

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/codec/icquant_matrix.h"
#include "kernels/cuda/matrix_image.h"

namespace quantloom::cuda {

// Whether IcquantImage takes the matrix: 1 to 4 bits.
bool HasIcquantImage(const IcquantMatrix& matrix);

// Its image, with an IcquantView. Errors are PackedMatrixImage's.
absl::StatusOr<MatrixImage> IcquantImage(const IcquantMatrix& matrix, ThreadTeam& team);

}  // namespace quantloom::cuda
