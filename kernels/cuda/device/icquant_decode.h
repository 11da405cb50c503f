// Decoding of ICQuant tiles (icquant_image.h) in a warp: outlier symbols to a bitmap in shared
// memory, codes and outlier bits to levels by byte permutation.
//
// Cost, in integer operations per weight at n = 2 and 5 % outliers: symbols 0.5 (about 14 of a row
// and segment, ten operations each, decoded by 32 lanes for 8192 weights), selectors 0.4, PRMT
// 0.25.
#pragma once

#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Outlier bits of 16 rows and a segment, in the order in which the product wants them: bit 4 i +
// step of word [row][panel][t] is code i of lane 4 (row % 8) + t in that step of the panel.
struct SegmentBitmap {
  static constexpr uint32_t kRowWords = 8;
  uint32_t words[kTileRows][kRowWords];
};

// 32 lanes expand two consecutive segments, a row and segment each; one that does not exist becomes
// zeros. The warp must be synchronized before the bitmaps are read, and before they are expanded
// again.
__device__ __forceinline__ void ExpandOutliers(const IcquantView& w, uint32_t row_tile,
                                               uint32_t first_segment, SegmentBitmap* bitmaps) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = lane % kTileRows;
  const uint32_t segment = first_segment + lane / kTileRows;
  uint32_t* const words = bitmaps[lane / kTileRows].words[row];
  for (uint32_t i = 0; i < SegmentBitmap::kRowWords; ++i) words[i] = 0;

  const bool exists = segment < w.segments;
  const uint32_t group = row_tile * w.segments + segment;
  const uint32_t count = exists ? w.counts[group * kTileRows + row] : 0;
  uint32_t before = count;  // inclusive sum over the rows up to this one
#pragma unroll
  for (uint32_t distance = 1; distance < kTileRows; distance *= 2) {
    const uint32_t other = __shfl_up_sync(0xFFFFFFFFu, before, distance);
    if (row >= distance) before += other;
  }
  if (count == 0) return;

  uint64_t bit = static_cast<uint64_t>(w.first_symbol[group] + (before - count)) * w.symbol_bits;
  const uint32_t escape = (1u << w.symbol_bits) - 1;
  uint32_t next = 0;  // the column after the last one covered
  for (uint32_t i = 0; i < count; ++i, bit += w.symbol_bits) {
    const uint32_t* const word = w.symbols + (bit >> 5);
    const uint32_t symbol = __funnelshift_r(word[0], word[1], static_cast<uint32_t>(bit)) & escape;
    next += symbol == 0 ? escape : symbol;
    if (symbol == 0) continue;
    const uint32_t column = next - 1;
    // Panel and owner; code within the step, and step.
    words[column / kLaneColumns] |= 1u << (4 * (column & 7) + (column >> 3 & 3));
  }
}

// A byte of a row's levels: of 2^n, then of as many for outliers.
template <int kBits, bool kOutliers>
struct CentroidTable {
  static constexpr int kWords = CentroidWords(kBits, kOutliers);
  uint32_t words[kWords];

  // From word `first` of the row's levels on.
  __device__ __forceinline__ void Load(const IcquantView& w, uint32_t row, uint32_t first) {
    const uint32_t* const table = w.levels + static_cast<size_t>(row) * w.level_stride + first;
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = table[i];
  }

  // Four codes, one in each of the low four nibbles, of the inliers' or the outliers' part.
  __device__ __forceinline__ uint32_t LookUp(int part, uint32_t codes) const {
    const uint32_t* const levels = words + part * ((1 << kBits) / 4);
    if constexpr (kBits == 3) {
      return __byte_perm(levels[0], levels[1], codes);
    } else {  // 4
      const uint32_t low = __byte_perm(levels[0], levels[1], codes & 0x7777u);
      const uint32_t high = __byte_perm(levels[2], levels[3], codes & 0x7777u);
      return __byte_perm(low, high, 0x3210u | (codes & 0x8888u) >> 1);
    }
  }

  // The bytes of four codes; `outliers` has bit 0 of each nibble.
  __device__ __forceinline__ uint32_t Decode(uint32_t codes, uint32_t outliers) const {
    if constexpr (kBits <= 2) {
      const uint32_t selector = kOutliers ? codes | outliers << kBits : codes;
      return __byte_perm(words[0], kWords > 1 ? words[kWords - 1] : 0, selector);
    } else if constexpr (!kOutliers) {
      return LookUp(0, codes);
    } else {
      return __byte_perm(LookUp(0, codes), LookUp(1, codes), 0x3210u | outliers << 2);
    }
  }
};

// A lane's codes of one panel.
template <int kBits>
struct PanelCodes {
  static constexpr int kWords = PanelWords(kBits);
  uint32_t words[kWords];

  // The eight codes of row g or g + 8 in a step, one in each nibble.
  __device__ __forceinline__ uint32_t Row(uint32_t step, uint32_t half) const {
    if constexpr (kBits == 1) return HighBits(0, step, half);
    if constexpr (kBits == 2) return words[step] >> (2 * half) & 0x33333333u;
    if constexpr (kBits == 3) {
      return (words[step] >> (2 * half) & 0x33333333u) | HighBits(4, step, half) << 2;
    }
    if constexpr (kBits == 4) return words[2 * step + half];
  }

 private:
  __device__ __forceinline__ uint32_t HighBits(uint32_t first, uint32_t step, uint32_t half) const {
    return words[first + step / 2] >> (2 * (step % 2) + half) & 0x11111111u;
  }
};

}  // namespace quantloom::cuda
