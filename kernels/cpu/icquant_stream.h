// ICQuant rows of n = 1..4 bits in the order and the form in which products with one row of
// activations read them: a single stream from memory, every byte of it used once, decoded with few
// operations. Repacked from the stored planes without loss when an operator is made.
//
// Rows lie in pairs, which share loads of activations and whose chains of addresses are one: chunks
// of 512 columns (8 steps of 64) of both rows, then the steps that are left, then the next pair.
// The last of an odd number of rows is there twice.
//
// A chunk of a row has 64 n bytes of codes, n vectors of 64 bytes. Byte j of a vector has codes of
// columns j, 64 + j, .. of the chunk, so that shifting a vector leaves codes of 64 consecutive
// columns in its lanes. An index of a look-up is a code with the outlier flag above it, n + 1 bits;
// vectors are made for two of them at a time, one in each half of a byte (CodePlace, FlagBit):
//   n = 1   step s at bit s / 2 of the low half (s even) or the high half
//   n = 2   steps 0..3 in vector 0, 4..7 in vector 1; even steps in the low half of a byte, at bits
//           0, 2; odd ones in the high half, at bits 4, 6
//   n = 3   steps 2i and 2i + 1, i < 3, in the halves of vector i, bits 0..2 and 4..6; bit b of
//           steps 6 and 7 is what is left of vector b, its bits 3 and 7
//   n = 4   steps 2i and 2i + 1 in the halves of vector i
// With outliers there follow both rows' maps. A map is 64 flag bytes, byte j for columns j, 64 + j,
// .., one bit each, of which two thirds are zero; it is stored as 8 bytes whose bit j tells whether
// flag byte j is not zero, and the bytes that are not: the former of both rows, then the latter. At
// 5 % outliers that is 0.46 bits a weight, against 0.31 of the gap code (whose decoding is
// sequential) and 1 of a bitmap.
//
// A step that is left has, for one row and then the other, its codes as they are stored
// (code_packing.h; a narrow last block widened by zeros to 64 columns) and, with outliers, 8 bytes
// with a bit for each of its columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/codec/icquant_matrix.h"
#include "kernels/cpu/weight_memory.h"

namespace quantloom::cpu {

inline constexpr size_t kChunkSteps = 8;  // of 64 columns
inline constexpr size_t kPairRows = 2;

// The bit of a flag byte that tells of step `step` of a chunk. For n < 4 the flags of steps 2i and
// 2i + 1 lie at the same bit of the two halves: one shift brings both to bit n of their halves.
constexpr int FlagBit(int bits, int step) {
  const int pair = step / 2;
  if (bits == 4) return step % 2 == 0 ? 4 - pair : (5 + pair) % 8;
  return (bits - pair + 4) % 4 + step % 2 * 4;
}

// For 8 presence bits, the byte shuffle that puts consecutive bytes in the places of the bits that
// are set, and zeros in the others.
struct ExpandTable {
  uint8_t shuffles[256][8];
};
extern const ExpandTable kExpandTable;

class IcquantStream {
 public:
  // Kernels may read this far behind the last row.
  static constexpr size_t kOverread = 1024;

  // `matrix`: integer form, at most 4 bits.
  explicit IcquantStream(const IcquantMatrix& matrix);

  // The pair of rows from `row` on, which is even; the end for what comes after the last one.
  const uint8_t* pair(size_t row) const { return bytes_.data() + begins_[row / kPairRows]; }
  size_t chunks() const { return steps_ / kChunkSteps; }      // of a row
  size_t tail_steps() const { return steps_ % kChunkSteps; }  // of a row
  uint64_t bytes() const { return begins_.back(); }

 private:
  size_t steps_;                  // of a row, of 64 columns
  std::vector<uint64_t> begins_;  // [pairs + 1]
  WeightVector<uint8_t> bytes_;
};

}  // namespace quantloom::cpu
