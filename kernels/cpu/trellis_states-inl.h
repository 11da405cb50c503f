// The states of QTIP's trellis in registers: one row of a step, 64 columns of four tiles
// (trellis_kernels.h), gives four vectors of 16 states.
//
// Vector j has, in 32-bit lane l, the state of column 4 l + j, for then the four bytes that a state
// becomes meet the activation that linear.h's blocks have there. Tile t's columns are in lanes 4 t
// .. 4 t + 3; the state of its column c starts at bit floor(c K) of the row's bits. A shuffle gives
// each lane the 32 bits with its states, from which a shift and a mask take each. What 64 states
// cost:
//   AVX3_DL   9: one byte permutation finds the bits of all lanes
//   AVX3      12: four tiles' bits are put together before
//   AVX2      2 x 10
// vpmultishiftqb would take the place of shift and mask, but on Zen 4 it shares its pipe with the
// products that follow: a fifth slower.
#if defined(QUANTLOOM_KERNELS_CPU_TRELLIS_STATES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_TRELLIS_STATES_INL_H_
#undef QUANTLOOM_KERNELS_CPU_TRELLIS_STATES_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_TRELLIS_STATES_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/trellis_kernels.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

constexpr size_t kStepTiles = TrellisView::kStepTiles;
constexpr size_t kLaneStates = 4;  // columns of a lane

// Sixteen 32-bit integers.
using Words16 = Sums16;

// First bit of column c's state in its row, as TrellisFormat::Offset.
template <int kHalfBits>
constexpr int StateOffset(int column) {
  return column * kHalfBits / 2;
}

#if QUANTLOOM_X86_512 || QUANTLOOM_X86_256

// What shuffles and shifts take, the same for every tile. Lane m of a tile's four gets the 32 bits
// that begin with the byte in which the state of its column 4 m does.
template <int kHalfBits>
struct StateTables {
  // Bytes of the step: of the row's bits (half_bits of each tile) and of the next row's, which
  // follow.
  alignas(64) uint8_t step[64];
  // The same where the next row is in another register: 64 and more.
  alignas(64) uint8_t step_apart[64];
  // Bytes of one tile: its row's first eight, then the next row's.
  alignas(16) uint8_t tile[16];
  // Where the states of the lane's columns begin in its 32 bits.
  alignas(16) uint32_t shifts[kLaneStates][4];

  constexpr StateTables() : step(), step_apart(), tile(), shifts() {
    for (int m = 0; m < 4; ++m) {
      const int first = StateOffset<kHalfBits>(4 * m) / 8;
      for (int i = 0; i < 4; ++i) {
        const int byte = first + i;
        if (byte >= 2 * kHalfBits) continue;  // no state reaches there
        const bool next_row = byte >= kHalfBits;
        const int in_row = byte % kHalfBits;
        tile[4 * m + i] = static_cast<uint8_t>(in_row + (next_row ? 8 : 0));
        for (int t = 0; t < 4; ++t) {
          const int lane = 4 * t + m, place = t * kHalfBits + in_row;
          step[4 * lane + i] = static_cast<uint8_t>(place + (next_row ? 4 * kHalfBits : 0));
          step_apart[4 * lane + i] = static_cast<uint8_t>(place + (next_row ? 64 : 0));
        }
      }
      for (int j = 0; j < 4; ++j) {
        shifts[j][m] = static_cast<uint32_t>(StateOffset<kHalfBits>(4 * m + j) - 8 * first);
      }
    }
  }
};

#if HWY_TARGET != HWY_AVX3_DL
// A tile's bits of a row and the next.
HWY_INLINE __m128i LoadTileRows(const uint8_t* row, const uint8_t* next) {
  const __m128d low = _mm_load_sd(reinterpret_cast<const double*>(row));
  return _mm_castpd_si128(_mm_loadh_pd(low, reinterpret_cast<const double*>(next)));
}
#endif

template <int kHalfBits>
struct RowBits {
  static constexpr StateTables<kHalfBits> kTables{};
  Words16 words;

  // kApart: the next row's bits are at `next`, not behind the row's.
  template <bool kApart>
  static HWY_INLINE RowBits Load(const uint8_t* row, const uint8_t* next) {
#if HWY_TARGET == HWY_AVX3_DL
    const __m512i bytes = _mm512_loadu_si512(row);
    if constexpr (kApart) {
      return {_mm512_permutex2var_epi8(bytes, _mm512_load_si512(kTables.step_apart),
                                       _mm512_loadu_si512(next))};
    } else {
      return {_mm512_permutexvar_epi8(_mm512_load_si512(kTables.step), bytes)};
    }
#else
    __m128i tiles[kStepTiles];
#pragma GCC unroll 4
    for (size_t t = 0; t < kStepTiles; ++t) {
      tiles[t] = LoadTileRows(row + t * kHalfBits, next + t * kHalfBits);
    }
    const __m128i gather = _mm_load_si128(reinterpret_cast<const __m128i*>(kTables.tile));
    const __m256i lo = _mm256_set_m128i(tiles[1], tiles[0]);
    const __m256i hi = _mm256_set_m128i(tiles[3], tiles[2]);
#if QUANTLOOM_X86_512
    const __m512i all = _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
    return {_mm512_shuffle_epi8(all, _mm512_broadcast_i32x4(gather))};
#else
    const __m256i gathers = _mm256_broadcastsi128_si256(gather);
    return {{_mm256_shuffle_epi8(lo, gathers), _mm256_shuffle_epi8(hi, gathers)}};
#endif
#endif
  }

  template <size_t kColumn>
  HWY_INLINE Words16 States() const {
    const __m128i shift = _mm_load_si128(reinterpret_cast<const __m128i*>(kTables.shifts[kColumn]));
#if QUANTLOOM_X86_512
    return _mm512_and_si512(_mm512_srlv_epi32(words, _mm512_broadcast_i32x4(shift)),
                            _mm512_set1_epi32(0xFFFF));
#else
    const __m256i shifts = _mm256_broadcastsi128_si256(shift);
    const __m256i mask = _mm256_set1_epi32(0xFFFF);
    return {_mm256_and_si256(_mm256_srlv_epi32(words.lo, shifts), mask),
            _mm256_and_si256(_mm256_srlv_epi32(words.hi, shifts), mask)};
#endif
  }
};

#else

template <int kHalfBits>
struct RowBits {
  const uint8_t* row;
  const uint8_t* next;

  template <bool kApart>
  static HWY_INLINE RowBits Load(const uint8_t* row, const uint8_t* next) {
    return {row, next};
  }

  template <size_t kColumn>
  HWY_INLINE Words16 States() const {
    Words16 states;
    for (size_t l = 0; l < kLanes; ++l) {
      const size_t tile = l / 4;
      const int offset = StateOffset<kHalfBits>(static_cast<int>(4 * (l % 4) + kColumn));
      uint32_t bits = 0;
      for (int i = 0; i < 3; ++i) {
        const int byte = offset / 8 + i;
        const uint8_t* from = byte < kHalfBits ? row : next;
        if (byte >= 2 * kHalfBits) continue;
        bits |= static_cast<uint32_t>(from[tile * kHalfBits + byte % kHalfBits]) << (8 * i);
      }
      states.s[l] = static_cast<int32_t>((bits >> (offset % 8)) & 0xFFFF);
    }
    return states;
  }
};

#endif

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
