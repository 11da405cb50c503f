// The gap code of outlier positions (ICQuant, arXiv 2505.00850, section 3.2).
//
// A row's columns are cut into segments of 256. Inside a segment the outliers' columns are coded as
// gaps to the previous outlier, the first one to the column before the segment, so every gap is at
// least 1. A gap is written in symbols of B bits: a value v in 1..2^B-1 is the literal gap v and
// names an outlier; 0 is the escape "advance 2^B-1 columns, no outlier here". A segment's last
// symbol is never an escape. Restarting at each segment lets any column range be decoded without
// the row's start; it costs a count of symbols per segment and saves the escapes that would cross
// the boundary.
//
// Symbols follow each other without gaps, first symbol in the lowest bits of the first byte.
//
// For positions drawn at random with density gamma the stream takes
//   gamma B (1 + 1 / (e^{gamma (2^B - 1)} - 1))
// bits per column (equation 5 there): 0.313 for gamma = 5 % and B = 6.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace quantloom {

inline constexpr uint32_t kGapSegmentColumns = 256;
// Outliers of one segment: so that a symbol count fits a byte.
inline constexpr uint32_t kMaxSegmentOutliers = 255;
inline constexpr int kMinIndexBits = 2;
inline constexpr int kMaxIndexBits = 8;

// Symbol `index` of a stream of B-bit symbols, B in 1..8. Reads the one or two bytes that hold it.
constexpr uint32_t GapSymbol(const uint8_t* stream, int index_bits, uint64_t index) {
  const uint64_t bit = index * static_cast<uint64_t>(index_bits);
  const uint32_t shift = static_cast<uint32_t>(bit % 8);
  const uint8_t* byte = stream + bit / 8;
  uint32_t word = *byte;
  if (shift + static_cast<uint32_t>(index_bits) > 8) word |= static_cast<uint32_t>(byte[1]) << 8;
  return (word >> shift) & ((1u << index_bits) - 1u);
}

// Writes it. The stream's bits there must be zero.
void WriteGapSymbol(uint32_t symbol, int index_bits, uint64_t index, uint8_t* stream);

// Calls visit(column, symbol) for each outlier of a segment, in ascending order; both count from
// the segment's start. `first` is the index of the segment's first symbol, `count` its symbols.
// Trusts the stream: columns beyond 255 come only from one that CheckSegment refuses.
template <typename Visit>
constexpr void ForEachSegmentOutlier(const uint8_t* stream, int index_bits, uint64_t first,
                                     uint32_t count, Visit visit) {
  const uint32_t escape = (1u << index_bits) - 1u;
  uint32_t next = 0;  // the column after the last one covered
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t symbol = GapSymbol(stream, index_bits, first + i);
    if (symbol == 0) {
      next += escape;
    } else {
      next += symbol;
      visit(next - 1, i);
    }
  }
}

// Whether a segment of `width` columns is well formed: every outlier inside it, no trailing escape.
// On success *outliers is their number.
bool CheckSegment(const uint8_t* stream, int index_bits, uint64_t first, uint32_t count,
                  uint32_t width, uint32_t* outliers);

// Symbols that the outliers of one segment take with B-bit symbols; `columns` ascending, relative
// to the segment.
uint32_t SegmentSymbols(absl::Span<const uint32_t> columns, int index_bits);

// Writes that many symbols from symbol index `first` on. The stream's bits there must be zero.
void WriteSegment(absl::Span<const uint32_t> columns, int index_bits, uint64_t first,
                  uint8_t* stream);

}  // namespace quantloom
