#include "core/codec/code_packing.h"

#include <cstring>

namespace quantloom {
namespace {

// Packs bits [shift, shift + bits) of each code into a strided part; returns its end.
uint8_t* PackPart(const uint8_t* codes, int shift, int bits, uint32_t width, uint8_t* part) {
  const uint32_t m = StridedBytes(bits, width);
  const uint32_t mask = (1u << bits) - 1u;
  std::memset(part, 0, m);
  for (uint32_t c = 0; c < width; ++c) {
    const uint32_t code = (static_cast<uint32_t>(codes[c]) >> shift) & mask;
    part[c % m] |= static_cast<uint8_t>(code << (c / m * static_cast<uint32_t>(bits)));
  }
  return part + m;
}

}  // namespace

void PackCodes(const uint8_t* codes, int bits, uint64_t cols, uint8_t* row) {
  for (uint64_t begin = 0; begin < cols; begin += kCodeBlockColumns) {
    const uint32_t width = CodeBlockWidth(cols, begin / kCodeBlockColumns);
    if (bits == 3) {
      row = PackPart(codes + begin, 0, 2, width, row);
      row = PackPart(codes + begin, 2, 1, width, row);
    } else {
      row = PackPart(codes + begin, 0, bits, width, row);
    }
  }
}

void WidenRow(const uint8_t* row, int bits, uint64_t cols, uint8_t* widened) {
  const uint64_t whole = cols / kCodeBlockColumns * CodeBlockBytes(bits, kCodeBlockColumns);
  std::memcpy(widened, row, whole);
  const auto width = static_cast<uint32_t>(cols % kCodeBlockColumns);
  if (width == 0) return;
  uint8_t codes[kCodeBlockColumns] = {};
  for (uint32_t c = 0; c < width; ++c) {
    codes[c] = static_cast<uint8_t>(BlockCode(row + whole, bits, width, c));
  }
  PackCodes(codes, bits, kCodeBlockColumns, widened + whole);
}

}  // namespace quantloom
