// How a table's 256 vectors of 8 are put together from few distinct halves of 4, so that the
// encoder computes what it sums over a half once per half.
#pragma once

#include <cstdint>

#include "core/codec/e8p_table.h"

namespace quantloom {

struct SplitTable {
  static constexpr int kMostHalves = 64;
  int count = 0;
  int8_t half[kMostHalves][4] = {};
  uint8_t low[256] = {}, high[256] = {};  // which half makes coordinates 0-3 and 4-7
};

constexpr uint8_t FindOrAddHalf(SplitTable& split, const int8_t (&half)[4]) {
  for (int h = 0; h < split.count; ++h) {
    const int8_t* known = split.half[h];
    if (known[0] == half[0] && known[1] == half[1] && known[2] == half[2] && known[3] == half[3]) {
      return static_cast<uint8_t>(h);
    }
  }
  for (int i = 0; i < 4; ++i) split.half[split.count][i] = half[i];
  return static_cast<uint8_t>(split.count++);
}

// `to_term` maps a table's value to the number of its term.
template <typename ToTerm>
constexpr SplitTable Split(const E8Table& table, ToTerm to_term) {
  SplitTable split;
  for (int e = 0; e < 256; ++e) {
    int8_t halves[2][4] = {};
    for (int i = 0; i < kE8Dimensions; ++i) halves[i / 4][i % 4] = to_term(table.entry[e][i]);
    split.low[e] = FindOrAddHalf(split, halves[0]);
    split.high[e] = FindOrAddHalf(split, halves[1]);
  }
  return split;
}

// Terms 0, 1, 2: magnitudes 1/2, 3/2, 5/2.
inline constexpr int kMagnitudeTerms = 3;
inline constexpr SplitTable kE8pSplit = Split(kE8pTable, [](int8_t quarters) {
  return static_cast<int8_t>(((quarters < 0 ? -quarters : quarters) - 2) / 4);
});
// Terms 0 to 8: values -2 to 2 in halves.
inline constexpr int kValueTerms = 9;
inline constexpr SplitTable kOneBitSplit =
    Split(kE8OneBitTable, [](int8_t halves) { return static_cast<int8_t>(halves + 4); });

}  // namespace quantloom
