// HYB, the code of QTIP that looks up pairs of numbers: 512 pairs of integers
// (trellis_hyb_tables.h) by a hash of the state.
//
// AVX3_DL looks numbers up in registers, bytes by vpermi2b, 128 entries an instruction: four of
// them, each where the index's upper bits say so, look up 64 bytes. A number has twelve bits: bytes
// of the first number's upper eight and of the second's, and one with the lower four of both. What
// 128 weights, 64 states of two steps, and one activation row take:
//    8  the states' 16 bits: 4 byte permutations, 2 vpshrdvw; 2 loads
//    4  the hash
//   11  indices as bytes; masks of their quarters and of signs
//   12  vpermi2b
//    3  the lower bits apart
//    5  the activations of negated numbers; vpdpbusd
//    2  of the 4 that add a block's sum, for 256 weights
// 43, of which two can start in a cycle (Zen 4), and 26 loads of tables, of which one can: with
// both in each other's shadow 21.5 cycles, 21 billion weights/s at 3.6 GHz; 12.4 measured.
//
// Elsewhere pairs of int16 are gathered, 16 or 8 at a time, and multiplied by vpmaddwd.
#include "kernels/cpu/trellis_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/trellis_hyb.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/trellis_hyb_tables.h"
#include "kernels/cpu/trellis_product-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3_DL

// The states of one row of a step as 16-bit lanes: lane w has the state of columns 2 w and 2 w + 1.
template <int kHalfBits>
struct WordStates {
  // Bytes of a lane's 16 bits from where the state begins, and of the 16 behind them, in the row's
  // bits and the next row's behind them (trellis_states-inl.h has the same for 32-bit lanes).
  struct Places {
    alignas(64) uint8_t near[64];
    alignas(64) uint8_t far[64];
  };
  Places together, apart;
  alignas(64) uint16_t shifts[32];

  constexpr WordStates() : together(), apart(), shifts() {
    for (int w = 0; w < 32; ++w) {
      const int tile = w / 8, offset = StateOffset<kHalfBits>(2 * (w % 8));
      shifts[w] = static_cast<uint16_t>(offset % 8);
      for (int i = 0; i < 4; ++i) {
        const int byte = offset / 8 + i;
        if (byte >= 2 * kHalfBits) continue;  // no state reaches there
        const bool next_row = byte >= kHalfBits;
        const int place = tile * kHalfBits + byte % kHalfBits;
        const int lane_byte = 2 * w + i % 2;
        (i < 2 ? together.near : together.far)[lane_byte] =
            static_cast<uint8_t>(place + (next_row ? 4 * kHalfBits : 0));
        (i < 2 ? apart.near : apart.far)[lane_byte] =
            static_cast<uint8_t>(place + (next_row ? 64 : 0));
      }
    }
  }
};
template <int kHalfBits>
inline constexpr WordStates<kHalfBits> kWordStates{};

// The hashes of a row's states. kApart: the next row's bits are at `next`, not behind the row's.
template <int kHalfBits, bool kApart>
HWY_INLINE __m512i Hashes(const uint8_t* row, const uint8_t* next) {
  constexpr const WordStates<kHalfBits>& kStates = kWordStates<kHalfBits>;
  const __m512i bytes = _mm512_loadu_si512(row);
  const auto gather = [&](const uint8_t* together, const uint8_t* apart) HWY_ATTR {
    if constexpr (kApart) {
      return _mm512_permutex2var_epi8(bytes, _mm512_load_si512(apart), _mm512_loadu_si512(next));
    } else {
      return _mm512_permutexvar_epi8(_mm512_load_si512(together), bytes);
    }
  };
  __m512i states = gather(kStates.together.near, kStates.apart.near);
  if constexpr (kHalfBits != 8) {
    states = _mm512_shrdv_epi16(states, gather(kStates.together.far, kStates.apart.far),
                                _mm512_load_si512(kStates.shifts));
  }
  return _mm512_mullo_epi16(states, _mm512_add_epi16(states, _mm512_set1_epi16(1)));
}

// What 64 states look up.
struct HybNumbers {
  Bytes64 first_high, second_high, first_low, second_low;
  __mmask64 negated;
};

// States of two steps: byte 4 l + 2 i + s is of the step s' i-th state of lane l.
HWY_INLINE HybNumbers LookUp(__m512i hashes0, __m512i hashes1) {
  const __m512i first_step = _mm512_set1_epi16(0xFF);
  constexpr int kSelect = 0xCA;  // bits of the second operand where the first's are set
  const __m512i index = _mm512_ternarylogic_epi32(first_step, _mm512_srli_epi16(hashes0, 6),
                                                  _mm512_slli_epi16(hashes1, 2), kSelect);
  const __m512i top =
      _mm512_ternarylogic_epi32(first_step, _mm512_srli_epi16(hashes0, 8), hashes1, kSelect);
  const __m512i quarter = _mm512_and_si512(top, _mm512_set1_epi8(0x60));
  __mmask64 in_quarter[4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    in_quarter[q] = _mm512_cmpeq_epi8_mask(quarter, _mm512_set1_epi8(static_cast<char>(q << 5)));
  }
  const auto look_up = [&](const uint8_t* table) HWY_ATTR {
    // An index is left alone until its quarter comes.
    __m512i x = index;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      x = _mm512_mask2_permutex2var_epi8(_mm512_load_si512(table + 128 * q), x, in_quarter[q],
                                         _mm512_load_si512(table + 128 * q + 64));
    }
    return x;
  };
  const __m512i low = look_up(kHybBytes.low);
  const __m512i nibble = _mm512_set1_epi8(15);
  return {look_up(kHybBytes.first_high), look_up(kHybBytes.second_high),
          _mm512_and_si512(low, nibble), _mm512_and_si512(_mm512_srli_epi16(low, 4), nibble),
          _mm512_movepi8_mask(top)};
}

// A group's activations in the order of HybNumbers, two steps at a time.
struct HybGroup {
  static constexpr size_t kStepPairs = kGroupSteps / 2;
  Bytes64 first[kStepPairs], second[kStepPairs];
  Sums16 start;  // what the second numbers' offset comes to, in 16ths

  HWY_INLINE HybGroup(const int8_t* codes, size_t steps) {
    const auto order = [](int column) HWY_ATTR {
      const __m512i lanes =
          _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60);
      // Bytes of the first step, 64 on of the second.
      const __m512i places = _mm512_add_epi8(
          _mm512_shuffle_epi8(lanes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                         0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12))),
          _mm512_set1_epi32(0x42024000));
      return _mm512_add_epi8(places, _mm512_set1_epi8(static_cast<char>(column)));
    };
    start = ZeroSums();
#pragma GCC unroll 4
    for (size_t p = 0; p < kStepPairs; ++p) {
      const Bytes64 zero = ZeroSums();
      const Bytes64 a = 2 * p < steps ? LoadBytes(codes + 2 * p * kStep) : zero;
      const Bytes64 b = 2 * p + 1 < steps ? LoadBytes(codes + (2 * p + 1) * kStep) : zero;
      first[p] = _mm512_permutex2var_epi8(a, order(0), b);
      second[p] = _mm512_permutex2var_epi8(a, order(1), b);
      start = _mm512_dpbusd_epi32(start, _mm512_set1_epi8(1), second[p]);
    }
    constexpr int kOffset = HybByteTable::kSecondOffset / 16;
    start = _mm512_mullo_epi32(start, _mm512_set1_epi32(-kOffset));
  }
};

struct HybProduct {
  template <int kHalfBits>
  static void MultiplyTile(const uint8_t* bits, size_t total_steps, const TokenTile<1>& x,
                           TileSums& sums) {
    constexpr size_t kStepBytes = TrellisView::StepBytes(kHalfBits);
    for (size_t step = 0; step < total_steps; step += kGroupSteps) {
      const size_t steps = HWY_MIN(kGroupSteps, total_steps - step);
      const uint8_t* const from = bits + step * kStepBytes;
      for (size_t i = 0; i < steps * kStepBytes; i += 64) {
        __builtin_prefetch(from + kPrefetchBytes + i);
      }
      const auto& group = x.rows[0][step / kGroupSteps];
      const HybGroup activations(group.codes, steps);
      const Lanes scale = LoadLanes(group.scales);
      const auto multiply = [&]<bool kLast>(size_t row) HWY_ATTR {
        const Sums16 block = MultiplyRow<kHalfBits, kLast>(from, row, activations, steps);
        float* const lanes = sums.lanes[row];
        StoreLanes(Fma(ToFloat(block), scale, LoadLanes(lanes)), lanes);
      };
      for (size_t row = 0; row + 1 < kTileRows; ++row) multiply.template operator()<false>(row);
      multiply.template operator()<true>(kTileRows - 1);
    }
  }

  // Two steps of a row, or one twice where the row ends; `first` is where the tile's first row is.
  template <int kHalfBits, bool kLast>
  static HWY_INLINE HybNumbers LookUpSteps(const uint8_t* first, size_t row, bool one) {
    constexpr size_t kStepBytes = TrellisView::StepBytes(kHalfBits);
    const uint8_t* const from = first + row * kStepTiles * kHalfBits;
    const size_t second = one ? 0 : kStepBytes;
    return LookUp(Hashes<kHalfBits, kLast>(from, first),
                  Hashes<kHalfBits, kLast>(from + second, first + second));
  }

  // The block sums of one row and a group, whose steps are from `bits` on.
  template <int kHalfBits, bool kLast>
  static HWY_INLINE Sums16 MultiplyRow(const uint8_t* bits, size_t row, const HybGroup& activations,
                                       size_t steps) {
    Sums16 high = activations.start, low = ZeroSums();
    // The second of a step taken twice meets zeros.
    for (size_t s = 0; s < steps; s += 2) {
      const HybNumbers numbers = LookUpSteps<kHalfBits, kLast>(
          bits + s * TrellisView::StepBytes(kHalfBits), row, s + 1 == steps);
      const Bytes64 even = activations.first[s / 2], odd = activations.second[s / 2];
      const Bytes64 flipped = _mm512_mask_sub_epi8(even, numbers.negated, ZeroSums(), even);
      high = _mm512_dpbusd_epi32(high, numbers.first_high, flipped);
      low = _mm512_dpbusd_epi32(low, numbers.first_low, flipped);
      high = _mm512_dpbusd_epi32(high, numbers.second_high, odd);
      low = _mm512_dpbusd_epi32(low, numbers.second_low, odd);
    }
    return _mm512_add_epi32(_mm512_slli_epi32(high, 4), low);
  }

  template <int kHalfBits, bool kLast>
  static HWY_INLINE void DecodeRow(const uint8_t* tile, size_t row, size_t steps, int32_t* to) {
    for (size_t s = 0; s < steps; s += 2, to += 2 * TrellisPanel::kStepWords) {
      const HybNumbers numbers = LookUpSteps<kHalfBits, kLast>(
          tile + s * TrellisView::StepBytes(kHalfBits), row, s + 1 == steps);
      StoreStep<0>(numbers, to);
      if (s + 1 < steps) StoreStep<1>(numbers, to + TrellisPanel::kStepWords);
    }
  }

  // The twelve bits of the numbers of the first step (even bytes) or the second.
  template <int kStepInPair>
  static HWY_INLINE __m512i Words(const Bytes64& high, const Bytes64& low) {
    const __m512i upper =
        kStepInPair == 0 ? _mm512_slli_epi16(high, 4) : _mm512_srli_epi16(high, 4);
    const __m512i lower = kStepInPair == 0 ? low : _mm512_srli_epi16(low, 8);
    const __m512i nibble = _mm512_and_si512(lower, _mm512_set1_epi16(15));
    return _mm512_ternarylogic_epi32(upper, _mm512_set1_epi16(0xFF0), nibble, /*a & b | c*/ 0xEA);
  }

  template <int kStepInPair>
  static HWY_INLINE void StoreStep(const HybNumbers& numbers, int32_t* to) {
    const __m512i first = Words<kStepInPair>(numbers.first_high, numbers.first_low);
    const auto negated = static_cast<__mmask32>(
        _pext_u64(numbers.negated, uint64_t{0x5555555555555555} << kStepInPair));
    const __m512i signed_first =
        _mm512_mask_sub_epi16(first, negated, _mm512_setzero_si512(), first);
    const __m512i second =
        _mm512_sub_epi16(Words<kStepInPair>(numbers.second_high, numbers.second_low),
                         _mm512_set1_epi16(HybByteTable::kSecondOffset));
    StoreSums(PackWords(signed_first, second), to);
    StoreSums(_mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(signed_first, 16), second),
              to + kLanes);
  }
};

#else

struct HybPairs {
  static constexpr size_t kStateColumns = 2;

  template <size_t kColumn>
  static HWY_INLINE Bytes64 Spread(const Bytes64& codes) {
    return SpreadWords<kColumn, kColumn + 1>(codes);
  }

  static HWY_INLINE Words16 Weights(const Words16& states) {
    const auto* const table = reinterpret_cast<const int*>(kHybWords.pair);
#if QUANTLOOM_X86_512
    const __m512i hash = _mm512_mullo_epi32(states, _mm512_add_epi32(states, _mm512_set1_epi32(1)));
    const __m512i index =
        _mm512_and_si512(_mm512_srli_epi32(hash, 6), _mm512_set1_epi32(2 * kHybPairs - 1));
    return _mm512_i32gather_epi32(index, table, 4);
#elif QUANTLOOM_X86_256
    const auto look_up = [&](__m256i s) HWY_ATTR {
      const __m256i hash = _mm256_mullo_epi32(s, _mm256_add_epi32(s, _mm256_set1_epi32(1)));
      const __m256i index =
          _mm256_and_si256(_mm256_srli_epi32(hash, 6), _mm256_set1_epi32(2 * kHybPairs - 1));
      return _mm256_i32gather_epi32(table, index, 4);
    };
    return {look_up(states.lo), look_up(states.hi)};
#else
    Words16 r;
    for (size_t l = 0; l < kLanes; ++l) {
      const uint32_t hash = CodeHybHash(static_cast<uint32_t>(states.s[l]));
      r.s[l] = table[hash >> 6 & (2 * kHybPairs - 1)];
    }
    return r;
#endif
  }

  static HWY_INLINE Sums16 Dot(const Sums16& sums, const Words16& pairs, const Bytes64& a) {
    return DotWords(sums, pairs, a);
  }

  static HWY_INLINE Sums16 Start(const int32_t* /*biases*/) { return ZeroSums(); }
};

using HybProduct = ColumnProduct<HybPairs>;

#endif

void MultiplyHyb(const TrellisView& view, const Activations& x, const ProductRange& range,
                 const TrellisPanel& panel) {
  MultiplyEveryRate<HybProduct>(view, x, range, panel);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(MultiplyHyb);

void MultiplyHybTrellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                        const TrellisPanel& panel) {
  HWY_DYNAMIC_DISPATCH(MultiplyHyb)(view, x, range, panel);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
