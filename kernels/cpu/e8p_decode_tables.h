// QuIP#'s codebooks (core/codec/e8p_table.h) as kernels look them up.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec/e8p_table.h"

namespace quantloom::cpu {

// Eight bytes of a vector, coordinate i the i-th from the least significant.
constexpr uint64_t PackE8(const int8_t* vector) {
  uint64_t bytes = 0;
  for (int i = 0; i < kE8Dimensions; ++i) {
    bytes |= uint64_t{static_cast<uint8_t>(vector[i])} << (8 * i);
  }
  return bytes;
}

// Vectors of 8 bytes by the codes' bytes. Decoding is three look-ups of 8 bytes, an exclusive or
// and an addition for 8 weights.
struct E8VectorTables {
  uint64_t e8p[256];      // kE8pTable's entries
  uint64_t one_bit[256];  // kE8OneBitTable's
  uint64_t flips[256];    // by a code's low byte: 0xFF where the coordinate is negated
  uint64_t shifts[256];   // what is added then: 1 where it was negated, and the shift of +-1

  constexpr E8VectorTables() : e8p(), one_bit(), flips(), shifts() {
    constexpr uint64_t kOnes = 0x0101010101010101;
    for (int i = 0; i < 256; ++i) {
      e8p[i] = PackE8(kE8pTable.entry[i]);
      one_bit[i] = PackE8(kE8OneBitTable.entry[i]);
      for (int c = 1; c < kE8Dimensions; ++c) {
        if ((i >> c & 1) != 0) flips[i] ^= uint64_t{0xFF} << (8 * c) | 0xFF;
      }
      shifts[i] = (i & 1) != 0 ? (flips[i] & kOnes) + kOnes : (flips[i] & kOnes) - kOnes;
    }
  }

  // Eight bytes at once: no byte's sum carries into the next. Entries are +-2, +-6, +-10, so an
  // entry or its complement is neither 0, which would borrow when 1 is taken away, nor, of those to
  // which 1 or 2 is added, above 0xFD.
  uint64_t E8p(uint32_t code) const {
    return (e8p[code >> 8] ^ flips[code & 0xFF]) + shifts[code & 0xFF];
  }
};
inline constexpr E8VectorTables kE8Vectors;

// Table entries a few bits a coordinate, in planes of 256 bytes: bits 8 p .. 8 p + 7 of each
// entry's string are in plane p, coordinate i's begin at bit i * the bits a coordinate has.
struct E8BitPlanes {
  // Two bits: the magnitude in quarters is 2 + 4 * the two. Signs are not there: coordinate 0 of an
  // entry is negative where an odd number of coordinates has bit 0.
  alignas(64) uint8_t magnitudes[2][256];
  // Three bits: what kOneBitNumbers has at their place.
  alignas(64) uint8_t one_bit[3][256];

  static constexpr int8_t kOneBitNumbers[8] = {0, 1, 2, 4, -1, -2, -4, 0};

  constexpr E8BitPlanes() : magnitudes(), one_bit() {
    for (int e = 0; e < 256; ++e) {
      uint32_t two = 0, three = 0;
      for (int i = 0; i < kE8Dimensions; ++i) {
        const int quarters = kE8pTable.entry[e][i];
        two |= static_cast<uint32_t>((quarters < 0 ? -quarters : quarters) / 4) << (2 * i);
        uint32_t place = 0;
        while (kOneBitNumbers[place] != kE8OneBitTable.entry[e][i]) ++place;
        three |= place << (3 * i);
      }
      for (int p = 0; p < 2; ++p) magnitudes[p][e] = static_cast<uint8_t>(two >> (8 * p));
      for (int p = 0; p < 3; ++p) one_bit[p][e] = static_cast<uint8_t>(three >> (8 * p));
    }
  }
};
inline constexpr E8BitPlanes kE8BitPlanes;

}  // namespace quantloom::cpu
