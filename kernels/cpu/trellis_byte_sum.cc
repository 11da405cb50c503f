// MUL1 and 1MAD, the codes of QTIP whose values are sums of four bytes: a state becomes its four
// bytes in a register, and the product adds them up, since each of them is multiplied with the same
// activation.
//
// What 64 weights and one activation row take beside the states (trellis_states-inl.h):
//   AVX3_DL   8: a multiplication and vpdpbusd, four times each; 4 shuffles, shared by the rows,
//             repeat the activations. With the states 17.5. Multiplications and vpdpbusd share a
//             pipe that takes one a cycle (Zen 4): 8 cycles at least, at 3.6 GHz 28 billion
//             weights/s; 23 measured, 5.8 GB/s at 2 bits.
//   AVX3      16: a multiplication, vpmaddubsw, vpmaddwd and an addition, four times each
//   AVX2      2 x 16
// 1MAD adds its addend: 4 more.
#include "kernels/cpu/trellis_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/trellis_byte_sum.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/trellis_states-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

constexpr size_t kTileRows = TrellisView::kTileRows;

// Rows whose block sums are in registers, and tokens where there are several.
#if QUANTLOOM_X86_512
constexpr size_t kRowsOneToken = 8, kRowsManyTokens = 4, kManyTokens = 4;
#elif QUANTLOOM_X86_256
constexpr size_t kRowsOneToken = 4, kRowsManyTokens = 2, kManyTokens = 2;
#else
constexpr size_t kRowsOneToken = 1, kRowsManyTokens = 1, kManyTokens = 1;
#endif

// Bytes ahead of the step that is worked on: hardware prefetchers stop at every 4 KB page.
constexpr size_t kPrefetchBytes = 2048;

// state * multiplier + addend, modulo 2^32.
template <bool kAddend>
HWY_INLINE Words16 Congruence(const Words16& states, uint32_t multiplier, uint32_t addend) {
  const auto m = static_cast<int>(multiplier), a = static_cast<int>(addend);
#if QUANTLOOM_X86_512
  const __m512i x = _mm512_mullo_epi32(states, _mm512_set1_epi32(m));
  return kAddend ? _mm512_add_epi32(x, _mm512_set1_epi32(a)) : x;
#elif QUANTLOOM_X86_256
  const auto one = [&](__m256i s) HWY_ATTR {
    const __m256i x = _mm256_mullo_epi32(s, _mm256_set1_epi32(m));
    return kAddend ? _mm256_add_epi32(x, _mm256_set1_epi32(a)) : x;
  };
  return {one(states.lo), one(states.hi)};
#else
  (void)m, (void)a;
  Words16 r;
  for (size_t l = 0; l < kLanes; ++l) {
    r.s[l] = static_cast<int32_t>(static_cast<uint32_t>(states.s[l]) * multiplier + addend);
  }
  return r;
#endif
}

// Column kColumn of each lane's four of a step's activation codes, in the form that DotBytes takes:
// on AVX3_DL four times, a byte each; elsewhere twice, in 16 bits.
template <size_t kColumn>
HWY_INLINE Bytes64 SpreadColumn(const Bytes64& codes) {
  constexpr int c = kColumn;
  (void)c;
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        c, c, c, c, c + 4, c + 4, c + 4, c + 4, c + 8, c + 8, c + 8,
                                        c + 8, c + 12, c + 12, c + 12, c + 12)));
#elif QUANTLOOM_X86_512 || QUANTLOOM_X86_256
  // To the upper bytes of 16 bits, then down with their sign.
  const __m128i index = _mm_setr_epi8(-1, c, -1, c, -1, c + 4, -1, c + 4, -1, c + 8, -1, c + 8, -1,
                                      c + 12, -1, c + 12);
#if QUANTLOOM_X86_512
  return _mm512_srai_epi16(_mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(index)), 8);
#else
  const __m256i indices = _mm256_broadcastsi128_si256(index);
  return {_mm256_srai_epi16(_mm256_shuffle_epi8(codes.lo, indices), 8),
          _mm256_srai_epi16(_mm256_shuffle_epi8(codes.hi, indices), 8)};
#endif
#else
  Bytes64 r;
  for (size_t l = 0; l < kLanes; ++l) {
    for (size_t i = 0; i < 4; ++i) r.b[4 * l + i] = codes.b[4 * l + kColumn];
  }
  return r;
#endif
}

#if QUANTLOOM_X86_256
HWY_INLINE __m256i DotBytes256(__m256i sums, __m256i bytes, __m256i activations) {
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, activations));
}
#endif

// sums + (sum of a lane's four unsigned bytes) * its activation.
HWY_INLINE Sums16 DotBytes(const Sums16& sums, const Words16& bytes, const Bytes64& activations) {
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_dpbusd_epi32(sums, bytes, activations);
#elif QUANTLOOM_X86_512
  const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi8(1));
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, activations));
#elif QUANTLOOM_X86_256
  return {DotBytes256(sums.lo, bytes.lo, activations.lo),
          DotBytes256(sums.hi, bytes.hi, activations.hi)};
#else
  Sums16 r = sums;
  for (size_t l = 0; l < kLanes; ++l) {
    const auto x = static_cast<uint32_t>(bytes.s[l]);
    const uint32_t sum = (x & 0xFF) + (x >> 8 & 0xFF) + (x >> 16 & 0xFF) + (x >> 24);
    r.s[l] += static_cast<int32_t>(sum) * activations.b[4 * l];
  }
  return r;
#endif
}

// -510 * (sum of a block's codes), from -128 times it: what the sums' offset comes to. 4 b - b /
// 64, which is exact.
HWY_INLINE Sums16 StartByteSums(const int32_t* biases) {
  HWY_ALIGN int32_t start[kLanes];
  for (size_t l = 0; l < kLanes; ++l) start[l] = 4 * biases[l] - biases[l] / 64;
  Bytes64 r = LoadBytes(start);
#if QUANTLOOM_X86_512 || QUANTLOOM_X86_256
  return r;
#else
  Sums16 sums;
  hwy::CopyBytes<sizeof(sums)>(&r, &sums);
  return sums;
#endif
}

// One row tile and T tokens: 16 fp32 lanes of each row and token.
template <size_t T>
struct TileSums {
  HWY_ALIGN float lanes[kTileRows][T][kLanes];
};

// The product of rows first_row .. first_row + R - 1 of a row tile, its last ones or not, with one
// group of steps.
template <int kHalfBits, bool kAddend, size_t R, size_t T, bool kLast>
HWY_NOINLINE void MultiplyGroup(const TrellisView& view, const uint8_t* bits, size_t first_row,
                                const TokenTile<T>& x, size_t group, size_t steps,
                                TileSums<T>& sums) {
  constexpr size_t kRowBytes = kStepTiles * kHalfBits;
  Sums16 blocks[R][T];
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    const Sums16 start = StartByteSums(x.biases[t] + group * kLanes);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) blocks[r][t] = start;
  }
  for (size_t s = 0; s < steps; ++s) {
    const size_t step = group * kGroupSteps + s;
    const uint8_t* const step_bits = bits + step * TrellisView::StepBytes(kHalfBits);
    const uint8_t* const first = step_bits + first_row * kRowBytes;
#pragma GCC unroll 8
    for (size_t i = 0; i < R * kRowBytes; i += 64) __builtin_prefetch(first + kPrefetchBytes + i);
    RowBits<kHalfBits> rows[R];
#pragma GCC unroll 8
    for (size_t r = 0; r + 1 < R; ++r) {
      const uint8_t* const row = first + r * kRowBytes;
      rows[r] = RowBits<kHalfBits>::template Load<false>(row, row + kRowBytes);
    }
    // The ring closes behind the last row.
    const uint8_t* const last = first + (R - 1) * kRowBytes;
    rows[R - 1] =
        RowBits<kHalfBits>::template Load<kLast>(last, kLast ? step_bits : last + kRowBytes);
    const auto multiply = [&]<size_t kColumn>() HWY_ATTR {
      Bytes64 activations[T];
#pragma GCC unroll 8
      for (size_t t = 0; t < T; ++t) {
        activations[t] = SpreadColumn<kColumn>(LoadBytes(x.codes[t] + step * kStep));
      }
#pragma GCC unroll 8
      for (size_t r = 0; r < R; ++r) {
        const Words16 bytes =
            Congruence<kAddend>(rows[r].template States<kColumn>(), view.multiplier, view.addend);
#pragma GCC unroll 8
        for (size_t t = 0; t < T; ++t) {
          blocks[r][t] = DotBytes(blocks[r][t], bytes, activations[t]);
        }
      }
    };
    multiply.template operator()<0>();
    multiply.template operator()<1>();
    multiply.template operator()<2>();
    multiply.template operator()<3>();
  }
#pragma GCC unroll 8
  for (size_t t = 0; t < T; ++t) {
    const Lanes scale = LoadLanes(x.scales[t] + group * kLanes);
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
      float* const lanes = sums.lanes[first_row + r][t];
      StoreLanes(Fma(ToFloat(blocks[r][t]), scale, LoadLanes(lanes)), lanes);
    }
  }
}

template <int kHalfBits, bool kAddend, size_t R, size_t T>
void MultiplyTile(const TrellisView& view, const uint8_t* bits, const TokenTile<T>& x,
                  TileSums<T>& sums) {
  for (auto& row : sums.lanes) {
    for (float* token : row) StoreLanes(Splat(0.0f), token);
  }
  for (size_t step = 0; step < view.steps; step += kGroupSteps) {
    const size_t steps = HWY_MIN(kGroupSteps, view.steps - step);
    const size_t group = step / kGroupSteps;
    size_t row = 0;
    for (; row + R < kTileRows; row += R) {
      MultiplyGroup<kHalfBits, kAddend, R, T, false>(view, bits, row, x, group, steps, sums);
    }
    MultiplyGroup<kHalfBits, kAddend, R, T, true>(view, bits, row, x, group, steps, sums);
  }
}

template <int kHalfBits, bool kAddend, size_t R, size_t T>
void MultiplyTokens(const TrellisView& view, const Activations& x, const ProductRange& range,
                    size_t row_tile, size_t token) {
  TileSums<T> sums;
  const uint8_t* const bits = view.bits + row_tile * view.steps * TrellisView::StepBytes(kHalfBits);
  MultiplyTile<kHalfBits, kAddend, R, T>(view, bits, MakeTokenTile<T>(x, range.first_token + token),
                                         sums);
  const size_t first = row_tile * kTileRows;
  const size_t begin = HWY_MAX(first, range.row_begin);
  const size_t end = HWY_MIN(first + kTileRows, range.row_end);
  for (size_t t = 0; t < T; ++t) {
    float tile[kTileRows];
    for (size_t r = 0; r < kTileRows; r += 4) {
      TreeSum4(LoadLanes(sums.lanes[r][t]), LoadLanes(sums.lanes[r + 1][t]),
               LoadLanes(sums.lanes[r + 2][t]), LoadLanes(sums.lanes[r + 3][t]), tile + r);
    }
    float* const y = range.y + (token + t) * range.stride;
    for (size_t row = begin; row < end; ++row) y[row] = view.scales[row] * tile[row - first];
  }
}

template <int kHalfBits, bool kAddend>
void MultiplyRate(const TrellisView& view, const Activations& x, const ProductRange& range) {
  for (size_t tile = range.row_begin / kTileRows; tile * kTileRows < range.row_end; ++tile) {
    size_t t = 0;
    for (; t + kManyTokens <= range.tokens; t += kManyTokens) {
      MultiplyTokens<kHalfBits, kAddend, kRowsManyTokens, kManyTokens>(view, x, range, tile, t);
    }
    for (; t < range.tokens; ++t) {
      MultiplyTokens<kHalfBits, kAddend, kRowsOneToken, 1>(view, x, range, tile, t);
    }
  }
}

template <int kHalfBits>
void MultiplyCode(const TrellisView& view, const Activations& x, const ProductRange& range) {
  if (view.addend == 0) {
    MultiplyRate<kHalfBits, false>(view, x, range);
  } else {
    MultiplyRate<kHalfBits, true>(view, x, range);
  }
}

void MultiplyByteSums(const TrellisView& view, const Activations& x, const ProductRange& range) {
  switch (view.half_bits) {
    case 2:
      return MultiplyCode<2>(view, x, range);
    case 3:
      return MultiplyCode<3>(view, x, range);
    case 4:
      return MultiplyCode<4>(view, x, range);
    case 5:
      return MultiplyCode<5>(view, x, range);
    case 6:
      return MultiplyCode<6>(view, x, range);
    case 7:
      return MultiplyCode<7>(view, x, range);
    default:
      return MultiplyCode<8>(view, x, range);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(MultiplyByteSums);

void MultiplyTrellis(const TrellisView& view, const Activations& x, const ProductRange& range) {
  HWY_DYNAMIC_DISPATCH(MultiplyByteSums)(view, x, range);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
