// Stored matrices as the kernels read them: which form a matrix takes on a device, and its bytes.
//
//   QL_ASSIGN_OR_RETURN(MatrixImage image, PackedMatrixImage(*matrix, MatrixUse::kProduct, team));
//   ... copy image.bytes to `memory` on a device ...
//   const MatrixView view = image.ViewAt(memory);
//   Multiply(view, activations, y, stride, stream);
//
// Matrices whose stored form has a kernel are rearranged without loss; others are decoded to fp16:
//
//   raw F16, BF16, F32                       fp16 with a scale per row, a power of two: F16 and
//                                            (down to 2^-32 of a row's largest value) BF16 as they
//                                            are, F32 rounded to 11 significant bits
//   icquant, 8 bits without outliers, int8   int8
//   icquant, 1 to 4 bits                     IcquantView; levels of form range as F32 above
//   qtip, 1 to 4 bits                        TrellisView
//   quip                                     E8pView
//   everything else                          decoded; fp16 as F32 above
//
// Where the matrix was stored after incoherence processing, the image is of W~: transforming inputs
// and outputs is the caller's business.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/dtype.h"
#include "core/base/parallel.h"
#include "core/codec/codec.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Arrays begin at multiples of this many bytes of an image.
constexpr size_t kImageAlignment = 256;

struct MatrixImage {
  uint64_t rows = 0;
  uint64_t cols = 0;
  std::vector<uint8_t> bytes = {};
  MatrixView view = {};  // of pointers into `bytes`

  // The same view where `memory`, aligned to kImageAlignment, is a copy of `bytes`.
  MatrixView ViewAt(const void* memory) const;
};

// kRows: the image must be one that EmbedRows reads, fp16 or int8.
enum class MatrixUse : uint8_t { kProduct, kRows };

// INVALID_ARGUMENT for more rows or columns than 2^31 - 1, or more than 2^32 - 1 outlier symbols.
absl::StatusOr<MatrixImage> PackedMatrixImage(const PackedMatrix& matrix, MatrixUse use,
                                              ThreadTeam& team);

// Of dense values [rows, cols], row-major, little-endian F32, F16 or BF16. INVALID_ARGUMENT for
// other types, values that are not finite, a size that is not the shape's.
absl::StatusOr<MatrixImage> DenseMatrixImage(uint64_t rows, uint64_t cols, DType dtype,
                                             absl::Span<const uint8_t> values, ThreadTeam& team);

}  // namespace quantloom::cuda
