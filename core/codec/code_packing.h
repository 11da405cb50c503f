// How n-bit codes of a matrix row lie in bytes, n in {1, 2, 3, 4, 8}.
//
// A row is a sequence of blocks of 64 columns; the last one may be narrower. Inside a block of w
// columns the codes are strided: they take m = ceil(w n / 8) bytes, and column c sits in byte
// c mod m at bit (c / m) n. So one load of m bytes, shifted by a constant and masked, gives m
// consecutive columns in consecutive lanes: no lane permutation, whatever the vector's width.
// Three-bit codes are a 2-bit part (the code's low bits) followed by a 1-bit part (its high bit),
// each laid out by that rule. Only the last byte of a part may have unused bits; they are zero.
//
// The functions here are constexpr and use no containers, so that device code can call them too.
#pragma once

#include <cstdint>

namespace quantloom {

inline constexpr uint32_t kCodeBlockColumns = 64;

// Bytes that w codes of 1, 2, 4 or 8 bits take.
constexpr uint32_t StridedBytes(int bits, uint32_t width) {
  return (width * static_cast<uint32_t>(bits) + 7) / 8;
}

// Bytes of a block of `width` columns (at most 64), any supported n.
constexpr uint32_t CodeBlockBytes(int bits, uint32_t width) {
  return bits == 3 ? StridedBytes(2, width) + StridedBytes(1, width) : StridedBytes(bits, width);
}

// Bytes of a row.
constexpr uint64_t CodeRowBytes(int bits, uint64_t cols) {
  return cols / kCodeBlockColumns * CodeBlockBytes(bits, kCodeBlockColumns) +
         CodeBlockBytes(bits, static_cast<uint32_t>(cols % kCodeBlockColumns));
}

// Width of block `block` (counted in 64s) of a row of `cols` columns.
constexpr uint32_t CodeBlockWidth(uint64_t cols, uint64_t block) {
  const uint64_t left = cols - block * kCodeBlockColumns;
  return left < kCodeBlockColumns ? static_cast<uint32_t>(left) : kCodeBlockColumns;
}

// The code of `column` in a part of `width` columns with 1, 2, 4 or 8 bits each.
constexpr uint32_t StridedCode(const uint8_t* part, int bits, uint32_t width, uint32_t column) {
  const uint32_t m = StridedBytes(bits, width);
  return (static_cast<uint32_t>(part[column % m]) >> (column / m * static_cast<uint32_t>(bits))) &
         ((1u << bits) - 1u);
}

// The code of `column` (0..width-1) in a block of `width` columns.
constexpr uint32_t BlockCode(const uint8_t* block, int bits, uint32_t width, uint32_t column) {
  if (bits != 3) return StridedCode(block, bits, width, column);
  return StridedCode(block, 2, width, column) |
         StridedCode(block + StridedBytes(2, width), 1, width, column) << 2;
}

// The code of `column` in a row of `cols` columns.
constexpr uint32_t RowCode(const uint8_t* row, int bits, uint64_t cols, uint64_t column) {
  const uint64_t block = column / kCodeBlockColumns;
  return BlockCode(row + block * CodeBlockBytes(bits, kCodeBlockColumns), bits,
                   CodeBlockWidth(cols, block), static_cast<uint32_t>(column % kCodeBlockColumns));
}

// Packs codes[0..cols) (each below 2^bits) into CodeRowBytes(bits, cols) bytes at `row`.
void PackCodes(const uint8_t* codes, int bits, uint64_t cols, uint8_t* row);

// A row's codes as whole blocks, the last one's missing columns zero: CodeRowBytes(bits, cols
// rounded up to 64) bytes at `widened`.
void WidenRow(const uint8_t* row, int bits, uint64_t cols, uint8_t* widened);

}  // namespace quantloom
