// ICQuant matrices of the integer forms, repacked without loss for the product on tensor cores.
//
// Tiles are 16 rows by 32 columns, the A operand of mma.m16n8k32, four of them side by side a panel
// of 128 columns. Lane 4 g + t owns, of each tile, rows g and g + 8 and columns 4 t .. 4 t + 3 and
// 16 + 4 t .. 16 + 4 t + 3: eight codes of either row, here numbered i = 0..7 in this order. Within
// a panel they stand so that a constant shift and a mask leave one code in each of the eight
// nibbles of a word, which is how PRMT wants its selectors:
//
//   n = 2   word `step` (0..3): bits 4 i + {0, 1} row g, bits 4 i + {2, 3} row g + 8
//   n = 1   words 0, 1, of steps {0, 1} and {2, 3}: bit 4 i + 2 (step % 2) row g, the next row g +
//   8 n = 3   the low two bits as n = 2, then the high bits as n = 1 n = 4   words 2 step and 2
//   step + 1: bits 4 i .. 4 i + 3 of row g, of row g + 8
//
// A lane's words of a panel are stored in parts of 4 (n = 2; n = 3's low bits; n = 4, twice) or 2
// words (n = 1; n = 3's high bits): [row tiles, panels, parts, 32 lanes, words], so that a warp's
// load is contiguous.
//
// Symbols of the outlier index keep their code; those of the 16 rows of a tile follow each other
// segment by segment, with the number of the first one and each row's count beside them, so that 16
// lanes can decode a row each.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/codec/icquant_matrix.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// In host memory; View() is of pointers into it, or into a copy of the arrays on a device.
struct IcquantTiles {
  int bits = 0;
  bool outliers = false;
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint32_t panels = 0;
  uint32_t segments = 0;
  uint32_t symbol_bits = 0;
  uint32_t centroid_stride = 0;
  std::vector<uint32_t> codes;
  std::vector<uint32_t> symbols;  // and one word of zeros, for reads of two words
  std::vector<uint32_t> first_symbol;
  std::vector<uint8_t> counts;
  std::vector<uint32_t> centroids;
  std::vector<float> scales;
  std::vector<float> offsets;

  IcquantView View() const;
};

// INVALID_ARGUMENT for 8 bits, forms fp16 and range, and more rows or columns than 2^31.
absl::StatusOr<IcquantTiles> MakeIcquantTiles(const IcquantMatrix& matrix);

}  // namespace quantloom::cuda
