// HYB's numbers as the integers that products take: units of 2^-9 (kHybUnit), rounded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codec/trellis_code.h"

namespace quantloom::cpu {

inline constexpr size_t kHybPairs = 512;

// A binary16 number in units of 2^-9, half a unit away from zero. Below 2^-10 of a unit: 0.
constexpr int32_t HybInteger(uint16_t half) {
  const int exponent = half >> 10 & 0x1F;
  const auto mantissa = static_cast<int32_t>(0x400 | (half & 0x3FF));  // 2^(exponent - 25)
  const int up = exponent - 16;
  int32_t magnitude = 0;
  if (up >= 0) {
    magnitude = mantissa << up;
  } else if (up >= -11) {
    magnitude = (mantissa + (1 << (-up - 1))) >> -up;
  }
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

// Pairs by the upper ten bits of a hash, the sign included.
struct HybWordTable {
  alignas(64) int16_t pair[2 * kHybPairs][2];

  constexpr HybWordTable() : pair() {
    for (size_t i = 0; i < kHybPairs; ++i) {
      const auto first = static_cast<int16_t>(HybInteger(kHybTable[i][0]));
      const auto second = static_cast<int16_t>(HybInteger(kHybTable[i][1]));
      pair[i][0] = first;
      pair[kHybPairs + i][0] = static_cast<int16_t>(-first);
      pair[i][1] = pair[kHybPairs + i][1] = second;
    }
  }
};
inline constexpr HybWordTable kHybWords;

// Twelve bits of each number of a pair, apart: 0 .. 4095, the second ones with an offset.
struct HybByteTable {
  static constexpr int32_t kSecondOffset = 2048;

  alignas(64) uint8_t first_high[kHybPairs];  // bits 4 .. 11
  alignas(64) uint8_t second_high[kHybPairs];
  alignas(64) uint8_t low[kHybPairs];  // bits 0 .. 3: the first's below the second's

  constexpr HybByteTable() : first_high(), second_high(), low() {
    for (size_t i = 0; i < kHybPairs; ++i) {
      const int32_t first = HybInteger(kHybTable[i][0]);
      const int32_t second = HybInteger(kHybTable[i][1]) + kSecondOffset;
      first_high[i] = static_cast<uint8_t>(first >> 4);
      second_high[i] = static_cast<uint8_t>(second >> 4);
      low[i] = static_cast<uint8_t>((first & 15) | (second & 15) << 4);
    }
  }
};
inline constexpr HybByteTable kHybBytes;

namespace hyb_internal {

constexpr bool Fit() {
  for (const auto& pair : kHybTable) {
    const int32_t first = HybInteger(pair[0]);
    const int32_t second = HybInteger(pair[1]) + HybByteTable::kSecondOffset;
    if (first < 0 || first > 4095 || second < 0 || second > 4095) return false;
  }
  return true;
}
static_assert(Fit());

}  // namespace hyb_internal
}  // namespace quantloom::cpu
