// A product with QTIP's tiles in the integer form (linear.h), for any code whose states become
// integers in registers. A code is a class with
//
//   kStateColumns           columns that a state stands for: 1 or 2
//   Spread<kColumn>(codes)  activation codes of column kColumn (and the next, if a state stands for
//                           two) of each lane's four of a step, in the form that Dot takes
//   Weights(states)         the integers of 16 states
//   Dot(sums, weights, a)   sums + weights times activations, lane by lane
//   Start(biases)           what the sums of a block start from, by Activations::biases
//
// A few activation rows: weights are multiplied where they are decoded, for each row anew. Several:
// rows are decoded to int16 in memory once for all of them, and multiplied by vpdpwssd or vpmaddwd,
// 32 products in 512 bits: half as fast as int8 weights. Decoding takes about 22 cycles for 64
// weights (Zen 4, MUL1), a step of an activation row 3, for panels of wide matrices are in the
// second-level cache: 66 billion multiply-adds/s with 128 rows.
#if defined(QUANTLOOM_KERNELS_CPU_TRELLIS_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_TRELLIS_PRODUCT_INL_H_
#undef QUANTLOOM_KERNELS_CPU_TRELLIS_PRODUCT_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_TRELLIS_PRODUCT_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/trellis_states-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

constexpr size_t kTileRows = TrellisView::kTileRows;

// Rows whose block sums are in registers, of one token.
#if QUANTLOOM_X86_512
constexpr size_t kRowsOneToken = 8;
#elif QUANTLOOM_X86_256
constexpr size_t kRowsOneToken = 4;
#else
constexpr size_t kRowsOneToken = 1;
#endif

// From so many tokens on rows are decoded to memory.
#if HWY_TARGET == HWY_AVX3_DL
constexpr size_t kPanelTokens = 3;
#else
constexpr size_t kPanelTokens = 2;
#endif

// Bytes ahead of the step that is worked on: hardware prefetchers stop at every 4 KB page.
constexpr size_t kPrefetchBytes = 2048;

// Columns kFirst and kSecond of each lane's four of a step's activation codes, 16 bits each.
template <size_t kFirst, size_t kSecond>
HWY_INLINE Bytes64 SpreadWords(const Bytes64& codes) {
#if QUANTLOOM_X86_512 || QUANTLOOM_X86_256
  // To the upper bytes of 16 bits, then down with their sign.
  constexpr int i = kFirst, j = kSecond;
  const __m128i index = _mm_setr_epi8(-1, i, -1, j, -1, i + 4, -1, j + 4, -1, i + 8, -1, j + 8, -1,
                                      i + 12, -1, j + 12);
#if QUANTLOOM_X86_512
  return _mm512_srai_epi16(_mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(index)), 8);
#else
  const __m256i indices = _mm256_broadcastsi128_si256(index);
  return {_mm256_srai_epi16(_mm256_shuffle_epi8(codes.lo, indices), 8),
          _mm256_srai_epi16(_mm256_shuffle_epi8(codes.hi, indices), 8)};
#endif
#else
  // The plain form leaves them bytes, the first two of a lane's four.
  Bytes64 r = {};
  for (size_t l = 0; l < kLanes; ++l) {
    r.b[4 * l] = codes.b[4 * l + kFirst];
    r.b[4 * l + 1] = codes.b[4 * l + kSecond];
  }
  return r;
#endif
}

// sums + a lane's two int16 weights times its two activations (SpreadWords).
HWY_INLINE Sums16 DotWords(const Sums16& sums, const Words16& weights, const Bytes64& a) {
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_dpwssd_epi32(sums, weights, a);
#elif QUANTLOOM_X86_512
  return _mm512_add_epi32(sums, _mm512_madd_epi16(weights, a));
#elif QUANTLOOM_X86_256
  return {_mm256_add_epi32(sums.lo, _mm256_madd_epi16(weights.lo, a.lo)),
          _mm256_add_epi32(sums.hi, _mm256_madd_epi16(weights.hi, a.hi))};
#else
  Sums16 r = sums;
  for (size_t l = 0; l < kLanes; ++l) {
    const auto pair = static_cast<uint32_t>(weights.s[l]);
    r.s[l] += static_cast<int16_t>(pair & 0xFFFF) * a.b[4 * l] +
              static_cast<int16_t>(pair >> 16) * a.b[4 * l + 1];
  }
  return r;
#endif
}

// Each 32-bit lane of a times b.
HWY_INLINE Words16 MultiplyWords(const Words16& a, uint32_t b) {
#if QUANTLOOM_X86_512
  return _mm512_mullo_epi32(a, _mm512_set1_epi32(static_cast<int>(b)));
#elif QUANTLOOM_X86_256
  const __m256i bs = _mm256_set1_epi32(static_cast<int>(b));
  return {_mm256_mullo_epi32(a.lo, bs), _mm256_mullo_epi32(a.hi, bs)};
#else
  Words16 r;
  for (size_t l = 0; l < kLanes; ++l) {
    r.s[l] = static_cast<int32_t>(static_cast<uint32_t>(a.s[l]) * b);
  }
  return r;
#endif
}

HWY_INLINE Words16 AddWords(const Words16& a, uint32_t b) {
#if QUANTLOOM_X86_512
  return _mm512_add_epi32(a, _mm512_set1_epi32(static_cast<int>(b)));
#elif QUANTLOOM_X86_256
  const __m256i bs = _mm256_set1_epi32(static_cast<int>(b));
  return {_mm256_add_epi32(a.lo, bs), _mm256_add_epi32(a.hi, bs)};
#else
  Words16 r;
  for (size_t l = 0; l < kLanes; ++l) {
    r.s[l] = static_cast<int32_t>(static_cast<uint32_t>(a.s[l]) + b);
  }
  return r;
#endif
}

// --- Activation rows one by one.

// A row tile's sums, 16 fp32 lanes of each row.
struct TileSums {
  HWY_ALIGN float lanes[kTileRows][kLanes];
};

// The product of rows first_row .. first_row + R - 1 of a row tile, its last ones or not, with one
// group of steps.
template <class Code, int kHalfBits, size_t R, bool kLast>
HWY_NOINLINE void MultiplyGroup(const uint8_t* bits, size_t first_row, const TokenTile<1>& x,
                                size_t group, size_t steps, TileSums& sums) {
  constexpr size_t kRowBytes = kStepTiles * kHalfBits;
  Sums16 blocks[R];
  const Sums16 start = Code::Start(x.rows[0][group].biases);
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) blocks[r] = start;
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
    const Bytes64 codes = x.Step(0, group, s);
    const auto multiply = [&]<size_t kColumn>() HWY_ATTR {
      const Bytes64 activations = Code::template Spread<kColumn>(codes);
#pragma GCC unroll 8
      for (size_t r = 0; r < R; ++r) {
        const Words16 weights = Code::Weights(rows[r].template States<kColumn>());
        blocks[r] = Code::Dot(blocks[r], weights, activations);
      }
    };
    multiply.template operator()<0>();
    if constexpr (Code::kStateColumns == 1) multiply.template operator()<1>();
    multiply.template operator()<2>();
    if constexpr (Code::kStateColumns == 1) multiply.template operator()<3>();
  }
  const Lanes scale = LoadLanes(x.rows[0][group].scales);
#pragma GCC unroll 8
  for (size_t r = 0; r < R; ++r) {
    float* const lanes = sums.lanes[first_row + r];
    StoreLanes(Fma(ToFloat(blocks[r]), scale, LoadLanes(lanes)), lanes);
  }
}

// --- Several.

// Integers of a lane's columns 4 l and 4 l + 1, or 4 l + 2 and 4 l + 3.
HWY_INLINE Words16 PackWords(const Words16& low, const Words16& high) {
#if QUANTLOOM_X86_512
  return _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
#elif QUANTLOOM_X86_256
  return {_mm256_blend_epi16(low.lo, _mm256_slli_epi32(high.lo, 16), 0xAA),
          _mm256_blend_epi16(low.hi, _mm256_slli_epi32(high.hi, 16), 0xAA)};
#else
  Words16 r;
  for (size_t l = 0; l < kLanes; ++l) {
    r.s[l] = static_cast<int32_t>((static_cast<uint32_t>(low.s[l]) & 0xFFFF) |
                                  static_cast<uint32_t>(high.s[l]) << 16);
  }
  return r;
#endif
}

// R rows of a panel from `words` on and T tokens.
template <size_t R, size_t T>
HWY_INLINE void WordTile(const int32_t* words, size_t stride, const TokenTile<T>& x, size_t steps,
                         float (&out)[T][R]) {
  Lanes sums[R][T];
  ZeroTile(sums);
  for (size_t first = 0; first < steps; first += kGroupSteps) {
    const size_t group = first / kGroupSteps;
    Sums16 blocks[R][T];
#pragma GCC unroll 8
    for (size_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (size_t t = 0; t < T; ++t) blocks[r][t] = ZeroSums();
    }
    const size_t end = HWY_MIN(first + kGroupSteps, steps);
    for (size_t step = first; step < end; ++step) {
      Bytes64 low[T], high[T];
#pragma GCC unroll 8
      for (size_t t = 0; t < T; ++t) {
        const Bytes64 codes = x.Step(t, group, step - first);
        low[t] = SpreadWords<0, 1>(codes);
        high[t] = SpreadWords<2, 3>(codes);
      }
#pragma GCC unroll 8
      for (size_t r = 0; r < R; ++r) {
        const int32_t* const from = words + r * stride + step * TrellisPanel::kStepWords;
        const Words16 first_pair = LoadSums(from), second_pair = LoadSums(from + kLanes);
#pragma GCC unroll 8
        for (size_t t = 0; t < T; ++t) {
          blocks[r][t] = DotWords(blocks[r][t], first_pair, low[t]);
          blocks[r][t] = DotWords(blocks[r][t], second_pair, high[t]);
        }
      }
    }
    AddBlocks(x, group, blocks, sums);
  }
  ReduceTile<R, T>(sums, out);
}

// Rows `row` .. of the matrix, which a panel has.
inline HWY_NOINLINE void MultiplyPanel(const TrellisView& view, const TrellisPanel& panel,
                                       const Activations& x, const ProductRange& range,
                                       size_t row) {
  static_assert(TrellisPanel::kRows % kByteRows == 0);
  for (size_t r = 0; r < TrellisPanel::kRows; r += kByteRows) {
    const size_t begin = HWY_MAX(row + r, range.row_begin);
    const size_t end = HWY_MIN(row + r + kByteRows, range.row_end);
    if (begin >= end) continue;
    ForTokenTiles(range.tokens, [&]<size_t T>(size_t t) HWY_ATTR {
      float sums[T][kByteRows];
      WordTile<kByteRows, T>(panel.words + r * panel.stride, panel.stride,
                             TokenTile<T>(x, range.first_token + t), view.steps, sums);
      for (size_t i = 0; i < T; ++i) {
        float* const y = range.y + (t + i) * range.stride;
        for (size_t to = begin; to < end; ++to) y[to] = view.scales[to] * sums[i][to - row - r];
      }
    });
  }
}

// --- Both, for a code.

template <class Code>
struct ColumnProduct {
  // Adds a row tile's products with one token to its lanes.
  template <int kHalfBits>
  static void MultiplyTile(const uint8_t* bits, size_t total_steps, const TokenTile<1>& x,
                           TileSums& sums) {
    constexpr size_t R = kRowsOneToken;
    for (size_t step = 0; step < total_steps; step += kGroupSteps) {
      const size_t steps = HWY_MIN(kGroupSteps, total_steps - step);
      const size_t group = step / kGroupSteps;
      size_t row = 0;
      for (; row + R < kTileRows; row += R) {
        MultiplyGroup<Code, kHalfBits, R, false>(bits, row, x, group, steps, sums);
      }
      MultiplyGroup<Code, kHalfBits, R, true>(bits, row, x, group, steps, sums);
    }
  }

  // Decodes a step of a row of a tile; the ring's next row is at `next`.
  template <int kHalfBits, bool kLast>
  static HWY_INLINE void DecodeStep(const uint8_t* row, const uint8_t* next, int32_t* to) {
    const auto bits = RowBits<kHalfBits>::template Load<kLast>(row, next);
    if constexpr (Code::kStateColumns == 2) {
      StoreSums(Code::Weights(bits.template States<0>()), to);
      StoreSums(Code::Weights(bits.template States<2>()), to + kLanes);
    } else {
      // The product with activations of 1.
      HWY_ALIGN int32_t biases[kLanes];
      HWY_ALIGN int8_t codes[kStep];
      for (int32_t& bias : biases) bias = -128;
      for (int8_t& code : codes) code = 1;
      const Sums16 start = Code::Start(biases);
      const Bytes64 ones = Code::template Spread<0>(LoadBytes(codes));
      const auto integers = [&]<size_t kColumn>() HWY_ATTR {
        return Code::Dot(start, Code::Weights(bits.template States<kColumn>()), ones);
      };
      StoreSums(PackWords(integers.template operator()<0>(), integers.template operator()<1>()),
                to);
      StoreSums(PackWords(integers.template operator()<2>(), integers.template operator()<3>()),
                to + kLanes);
    }
  }

  template <int kHalfBits, bool kLast>
  static HWY_INLINE void DecodeRow(const uint8_t* tile, size_t row, size_t steps, int32_t* to) {
    constexpr size_t kRowBytes = kStepTiles * kHalfBits;
    for (size_t step = 0; step < steps; ++step) {
      const uint8_t* const first = tile + step * TrellisView::StepBytes(kHalfBits);
      const uint8_t* const bits = first + row * kRowBytes;
      DecodeStep<kHalfBits, kLast>(bits, kLast ? first : bits + kRowBytes,
                                   to + step * TrellisPanel::kStepWords);
    }
  }
};

template <class Tiled, int kHalfBits>
void MultiplyOnce(const TrellisView& view, const Activations& x, const ProductRange& range,
                  size_t row_tile, size_t token) {
  TileSums sums;
  for (float* const lanes : sums.lanes) StoreLanes(Splat(0.0f), lanes);
  const uint8_t* const bits = view.bits + row_tile * view.steps * TrellisView::StepBytes(kHalfBits);
  Tiled::template MultiplyTile<kHalfBits>(bits, view.steps,
                                          TokenTile<1>(x, range.first_token + token), sums);
  const size_t first = row_tile * kTileRows;
  float tile[kTileRows];
  for (size_t r = 0; r < kTileRows; r += 4) {
    TreeSum4(LoadLanes(sums.lanes[r]), LoadLanes(sums.lanes[r + 1]), LoadLanes(sums.lanes[r + 2]),
             LoadLanes(sums.lanes[r + 3]), tile + r);
  }
  const size_t end = HWY_MIN(first + kTileRows, range.row_end);
  for (size_t row = HWY_MAX(first, range.row_begin); row < end; ++row) {
    range.y[token * range.stride + row] = view.scales[row] * tile[row - first];
  }
}

template <class Tiled, int kHalfBits>
void MultiplyDecoded(const TrellisView& view, const Activations& x, const ProductRange& range,
                     size_t row_tile, const TrellisPanel& panel) {
  const uint8_t* const bits = view.bits + row_tile * view.steps * TrellisView::StepBytes(kHalfBits);
  for (size_t first = 0; first < kTileRows; first += TrellisPanel::kRows) {
    const size_t row = row_tile * kTileRows + first;
    if (row + TrellisPanel::kRows <= range.row_begin || row >= range.row_end) continue;
    for (size_t r = 0; r < TrellisPanel::kRows; ++r) {
      int32_t* const to = panel.words + r * panel.stride;
      if (first + r + 1 < kTileRows) {
        Tiled::template DecodeRow<kHalfBits, false>(bits, first + r, view.steps, to);
      } else {
        Tiled::template DecodeRow<kHalfBits, true>(bits, first + r, view.steps, to);
      }
    }
    MultiplyPanel(view, panel, x, range, row);
  }
}

template <class Tiled, int kHalfBits>
void MultiplyRate(const TrellisView& view, const Activations& x, const ProductRange& range,
                  const TrellisPanel& panel) {
  for (size_t tile = range.row_begin / kTileRows; tile * kTileRows < range.row_end; ++tile) {
    if (range.tokens >= kPanelTokens) {
      MultiplyDecoded<Tiled, kHalfBits>(view, x, range, tile, panel);
    } else {
      for (size_t t = 0; t < range.tokens; ++t) {
        MultiplyOnce<Tiled, kHalfBits>(view, x, range, tile, t);
      }
    }
  }
}

template <class Tiled>
void MultiplyEveryRate(const TrellisView& view, const Activations& x, const ProductRange& range,
                       const TrellisPanel& panel) {
  switch (view.half_bits) {
    case 2:
      return MultiplyRate<Tiled, 2>(view, x, range, panel);
    case 3:
      return MultiplyRate<Tiled, 3>(view, x, range, panel);
    case 4:
      return MultiplyRate<Tiled, 4>(view, x, range, panel);
    case 5:
      return MultiplyRate<Tiled, 5>(view, x, range, panel);
    case 6:
      return MultiplyRate<Tiled, 6>(view, x, range, panel);
    case 7:
      return MultiplyRate<Tiled, 7>(view, x, range, panel);
    default:
      return MultiplyRate<Tiled, 8>(view, x, range, panel);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
