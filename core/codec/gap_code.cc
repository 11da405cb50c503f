#include "core/codec/gap_code.h"

namespace quantloom {

void WriteGapSymbol(uint32_t symbol, int index_bits, uint64_t index, uint8_t* stream) {
  const uint64_t bit = index * static_cast<uint64_t>(index_bits);
  const uint32_t shift = static_cast<uint32_t>(bit % 8);
  const uint32_t word = symbol << shift;
  stream[bit / 8] |= static_cast<uint8_t>(word);
  if (word > 0xFF) stream[bit / 8 + 1] |= static_cast<uint8_t>(word >> 8);
}

bool CheckSegment(const uint8_t* stream, int index_bits, uint64_t first, uint32_t count,
                  uint32_t width, uint32_t* outliers) {
  uint32_t found = 0;
  uint32_t last = 0;
  ForEachSegmentOutlier(stream, index_bits, first, count, [&](uint32_t column, uint32_t) {
    ++found;
    last = column;
  });
  *outliers = found;
  if (count == 0) return true;
  const bool ends_in_outlier = GapSymbol(stream, index_bits, first + count - 1) != 0;
  return ends_in_outlier && last < width;
}

uint32_t SegmentSymbols(absl::Span<const uint32_t> columns, int index_bits) {
  const uint32_t escape = (1u << index_bits) - 1u;
  uint32_t symbols = 0;
  uint32_t next = 0;
  for (const uint32_t column : columns) {
    symbols += (column - next) / escape + 1;  // gap - 1 = column - next
    next = column + 1;
  }
  return symbols;
}

void WriteSegment(absl::Span<const uint32_t> columns, int index_bits, uint64_t first,
                  uint8_t* stream) {
  const uint32_t escape = (1u << index_bits) - 1u;
  uint64_t index = first;
  uint32_t next = 0;
  for (const uint32_t column : columns) {
    const uint32_t gap = column - next + 1;
    index += (gap - 1) / escape;  // escapes are zero bits
    WriteGapSymbol((gap - 1) % escape + 1, index_bits, index++, stream);
    next = column + 1;
  }
}

}  // namespace quantloom
