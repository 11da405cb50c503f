// E8P, the codebook of QuIP# (Tseng et al., arXiv 2402.04396, section 4.2): 2^16 vectors of 8
// weights near the E8 lattice, decoded from a table of 256 entries. And the 1-bit E8 codebook that
// refines it to 3 bits (section 4.3).
//
// E8P = {s t + d}: t an entry of the table, s an even number of sign flips, d = -1/4 or +1/4 in all
// eight coordinates. The entries are elements of D8 + 1/2 (half-integers with an even sum), even
// flips keep them there, and the two shifts of D8 + 1/2 make it a part of E8 + 1/4, since E8 = D8
// united with D8 + 1/2.
//
// A code has 16 bits:
//
//   15 ... 8   table index
//    7 ... 1   bit i: coordinate i of the entry is negated. Coordinate 0 is negated when their
//              number is odd, so that the flips are even.
//          0   shift: +1/4 if set, else -1/4
//
// The tables are constexpr arrays; DecodeE8p takes its table as an argument, so that a CUDA kernel
// passes the device's copy.
#pragma once

#include <cstdint>

#include "core/base/host_device.h"

namespace quantloom {

inline constexpr int kE8Dimensions = 8;

// A codebook's table, or the table that it is made of: 256 vectors of 8 small integers, in a unit
// that the constant states.
struct E8Table {
  int8_t entry[256][kE8Dimensions];
};

namespace e8p_internal {

// Whether `magnitude` is so far from entries [first, count) of the table that it may join them: at
// a squared distance of 3 or more. In quarters.
constexpr bool IsApart(const E8Table& table, int first, int count, const int8_t* magnitude) {
  for (int e = first; e < count; ++e) {
    int distance = 0;
    for (int i = 0; i < kE8Dimensions; ++i) {
      const int entry = table.entry[e][i] < 0 ? -table.entry[e][i] : table.entry[e][i];
      distance += (entry - magnitude[i]) * (entry - magnitude[i]);
    }
    if (distance < 16 * 3) return false;
  }
  return true;
}

// Entries in lexicographic order of magnitudes: all of squared norm <= 10, then as many of squared
// norm 12 as fit, each apart from those before it.
constexpr E8Table MakeE8pTable() {
  E8Table table{};
  int count = 0, first12 = 0;
  for (int norm12 = 0; norm12 < 2; ++norm12) {
    first12 = count;
    for (int rank = 0; rank < 6561 && count < 256; ++rank) {  // 3^8 vectors of 1/2, 3/2, 5/2
      int8_t magnitude[kE8Dimensions] = {};
      int rest = rank, norm = 0, sum = 0;
      for (int i = kE8Dimensions - 1; i >= 0; --i, rest /= 3) {
        magnitude[i] = static_cast<int8_t>(2 + 4 * (rest % 3));
        norm += magnitude[i] * magnitude[i];
        sum += magnitude[i];
      }
      if (norm12 != 0 ? norm != 16 * 12 || !IsApart(table, first12, count, magnitude)
                      : norm > 16 * 10) {
        continue;
      }
      for (int i = 0; i < kE8Dimensions; ++i) table.entry[count][i] = magnitude[i];
      // An odd sum becomes even by one negation: half-integers change it by an odd number.
      if (sum / 4 % 2 != 0) table.entry[count][0] = static_cast<int8_t>(-magnitude[0]);
      ++count;
    }
  }
  return table;
}

constexpr E8Table MakeE8OneBitTable() {
  E8Table table{};
  int count = 0;
  for (int flips = 0; flips < 128; ++flips) {  // (+-1/2)^8 with an even number of minus signs
    bool odd = false;
    for (int i = 1; i < kE8Dimensions; ++i) {
      const bool negative = (flips >> (i - 1) & 1) != 0;
      table.entry[count][i] = negative ? -1 : 1;
      odd ^= negative;
    }
    table.entry[count++][0] = odd ? -1 : 1;
  }
  for (int i = 0; i < kE8Dimensions; ++i) {  // +-e_i +-e_j
    for (int j = i + 1; j < kE8Dimensions; ++j) {
      for (int signs = 0; signs < 4; ++signs) {
        table.entry[count][i] = (signs & 1) != 0 ? -2 : 2;
        table.entry[count++][j] = (signs & 2) != 0 ? -2 : 2;
      }
    }
  }
  ++count;                                   // the origin
  for (int signs = 0; signs < 2; ++signs) {  // +-2 e_i, of which the last does not fit
    for (int i = 0; i < kE8Dimensions && count < 256; ++i) {
      table.entry[count++][i] = signs != 0 ? -4 : 4;
    }
  }
  return table;
}

}  // namespace e8p_internal

// E8P's table in units of 1/4: values 2, 6, 10, and coordinate 0 of an entry with an odd sum of
// magnitudes negated. First the 227 vectors of magnitudes of squared norm <= 10 in lexicographic
// order. Of the 224 of squared norm 12, 29 fill it up: those that a walk in lexicographic order
// meets first, leaving out what is closer than a squared distance of 3 to one taken before.
//
// Neighbours would share the targets that they serve. The 29 so chosen leave a distortion within
// 0.0001 of the best found by exchanging them one by one for others, 0.3 % below the first 29.
inline constexpr E8Table kE8pTable = e8p_internal::MakeE8pTable();

// The 1-bit E8 codebook in units of 1/2: entries 0 to 127 are (+-1/2)^8, to 239 +-e_i +-e_j, 240
// the origin (these are all of E8 of squared norm <= 2), and to 255 +-2 e_i without -2 e_7.
inline constexpr E8Table kE8OneBitTable = e8p_internal::MakeE8OneBitTable();

// Units of the integers that codes decode to.
inline constexpr float kE8pUnit = 0.25f;
inline constexpr float kE8OneBitUnit = 0.5f;

// The code's vector in units of 1/4, each in [-11, 11].
QL_HOST_DEVICE constexpr void DecodeE8p(const E8Table& table, uint16_t code, int8_t* quarters) {
  const int8_t* entry = table.entry[code >> 8];
  const int shift = (code & 1) != 0 ? 1 : -1;
  int flipped = 0;
  for (int i = 1; i < kE8Dimensions; ++i) {
    const int flip = code >> i & 1;
    flipped ^= flip;
    quarters[i] = static_cast<int8_t>((flip != 0 ? -entry[i] : entry[i]) + shift);
  }
  quarters[0] = static_cast<int8_t>((flipped != 0 ? -entry[0] : entry[0]) + shift);
}

}  // namespace quantloom
