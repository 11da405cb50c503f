// Decoding of QTIP's tiles (trellis_image.h) in registers: the 16-bit states that a lane owns, and
// what each code makes of them.
//
// Integer operations per weight: a state is one PRMT, LOP or shift, and a third of a funnel shift,
// since windows 8 bits apart share one. Where the shifts between states are multiples of 8 bits the
// funnels vanish into each other: 1.34 at 2 bits, 1.3 at 1 and 4, at most 1.9 (3.5 bits). On top,
//
//   1MAD, MUL1   a multiply-add, on the other pipe. The sum of the four bytes is left to the tensor
//                core: they are the A operand of four products with the same activation.
//   3INST        a multiply-add, LOP, PRMT, and half an addition of two fp16 pairs
//   HYB          half of: a multiply-add, shift, LOP, load from shared memory, LOP
#pragma once

#include "core/codec/trellis_code.h"
#include "kernels/cuda/device/lane_words.h"
#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// A lane's bits of a panel: of each of its two tiles the two rows 2 g and 2 g + 1, 16 kHalfBits
// bits, and the 16 bits that follow them in the tile's ring.
template <uint32_t kHalfBits>
struct TrellisStreams {
  static constexpr uint32_t kTileWords = kHalfBits / 2 + 1;
  uint32_t words[2][kTileWords];

  // `stored` is the lane's panel. All lanes of the warp take part: what follows a lane's rows are
  // the first bits of the next two rows, of lane + 4; the last row's ring closes at lane 0.
  __device__ __forceinline__ void Complete(const uint32_t (&stored)[kHalfBits]) {
    constexpr uint32_t kWhole = kHalfBits / 2;
    constexpr bool kShared = kHalfBits % 2 == 1;  // a word has the ends of both tiles
    constexpr uint32_t kSecond = kWhole + (kShared ? 1 : 0);
    const uint32_t beginnings = __byte_perm(stored[0], stored[kSecond], 0x5410);
    const uint32_t next =
        __shfl_sync(0xFFFFFFFFu, beginnings, static_cast<int>((threadIdx.x + 4) % 32));
#pragma unroll
    for (uint32_t i = 0; i < kWhole; ++i) {
      words[0][i] = stored[i];
      words[1][i] = stored[kSecond + i];
    }
    words[0][kWhole] = kShared ? __byte_perm(stored[kWhole], next, 0x5410) : next;
    words[1][kWhole] = kShared ? __byte_perm(stored[kWhole], next, 0x7632) : next >> 16;
  }

  // The 16 bits of tile `tile`'s stream from bit `offset` on. Both constant once loops are
  // unrolled.
  __device__ __forceinline__ uint32_t Window(uint32_t tile, uint32_t offset) const {
    const uint32_t phase = offset % 8;
    const uint32_t base = phase + (offset - phase) / 24 * 24;  // of a word with three windows
    const uint32_t at = base / 32;
    const uint32_t after = at + 1 < kTileWords ? words[tile][at + 1 < kTileWords ? at + 1 : at] : 0;
    const uint32_t word =
        base % 32 == 0 ? words[tile][at] : __funnelshift_r(words[tile][at], after, base % 32);
    const uint32_t byte = (offset - base) / 8;
    if (byte == 0) return word & 0xFFFFu;
    return byte == 1 ? __byte_perm(word, 0, 0x4421) : word >> 16;
  }

  // The state of the weight in row 2 g + `half` and column `column` of the lane's 32, for codes
  // with one weight a state; for HYB of that weight and the next, `column` even.
  __device__ __forceinline__ uint32_t State(uint32_t half, uint32_t column) const {
    return Window(column / 16, 8 * kHalfBits * half + column % 16 * kHalfBits / 2);
  }
};

// 3INST of two states, the first in the low half (QTIP, algorithm 2; Code3Inst).
__device__ __forceinline__ uint32_t Decode3Inst(uint32_t first, uint32_t second) {
  const uint32_t x = ((first * k3InstMultiplier + k3InstAddend) & k3InstKept) ^ k3InstFlipped;
  const uint32_t y = ((second * k3InstMultiplier + k3InstAddend) & k3InstKept) ^ k3InstFlipped;
  return AddHalves(__byte_perm(x, y, 0x5410), __byte_perm(x, y, 0x7632));
}

// HYB's table, a copy for each lane, so that no two lanes meet in a bank.
struct HybTable {
  static constexpr uint32_t kEntries = 512;
  uint32_t pairs[kEntries][32];

  // By all threads of a block; to be followed by a barrier.
  __device__ __forceinline__ void Load(const uint32_t* table) {
    for (uint32_t i = threadIdx.x; i < kEntries * 32; i += blockDim.x) {
      pairs[i / 32][i % 32] = table[i / 32];
    }
  }

  __device__ __forceinline__ uint32_t Decode(uint32_t state) const {
    const uint32_t hash = CodeHybHash(state);
    // Bit 15 of the hash is the sign of the pair's first number.
    return pairs[CodeHybIndex(hash)][threadIdx.x % 32] ^ (hash & 0x8000u);
  }
};

}  // namespace quantloom::cuda
