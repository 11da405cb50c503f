// QuIP#'s products: codes become int8 weights of the integer form (byte_product-inl.h), in
// registers for one activation row, in memory once for several.
//
// AVX3_DL decodes 64 codes, 512 weights, at a time. The table's 256 entries are taken apart into
// two planes of bytes, two bits a coordinate, and each plane is looked up by two vpermi2b, 128
// entries each. Signs and the shifts' directions become 64 bits a step each, masks. What 512
// weights take:
//   2 + 9  the codes' bytes apart; entries
//   6 + 2  signs, of which one is a parity (vpopcntb), and shifts; to memory, for masks are loaded
//          from there
// and each 64 of them:
//   3      the entries' bits to bytes: a permutation gives each 64 bits their code's 16,
//          vpmultishiftqb each byte its two, vpermb the magnitude
//   4      shift and sign, with their masks
//   1      vpdpbusd
// 10.4 of which two can start in a cycle (Zen 4): 5.2 cycles, at 3.6 GHz 44 billion weights/s; 30
// measured in the caches, 25 from memory, which is 5.8 GB/s.
//
// Elsewhere a vector of 8 weights takes three look-ups of 64 bits, an exclusive or and an addition.
#include <bit>
#include <type_traits>

#include "kernels/cpu/aligned.h"
#include "kernels/cpu/e8p_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/e8p_product.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/e8p_decode_tables.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

static_assert(E8pView::kRows % kByteRows == 0);

#if HWY_TARGET == HWY_AVX3_DL

// Bytes ahead of what is decoded: hardware prefetchers stop at every 4 KB page.
constexpr size_t kPrefetchBytes = 2048;

constexpr size_t kChunkVectors = 64;
constexpr size_t kChunkSteps = kChunkVectors * kE8Dimensions / kStep;

// Bytes b, b + kBits, b + 2 kBits .. of 64 kBits bytes: one of each code.
template <int kBits>
struct BytePlaces {
  alignas(64) uint8_t first[kBits][64];   // in the first 128 bytes
  alignas(64) uint8_t second[kBits][64];  // in the rest
  uint64_t in_second[kBits];

  constexpr BytePlaces() : first(), second(), in_second() {
    for (int b = 0; b < kBits; ++b) {
      for (int i = 0; i < 64; ++i) {
        const int place = kBits * i + b;
        (place < 128 ? first : second)[b][i] = static_cast<uint8_t>(place % 128);
        if (place >= 128) in_second[b] |= uint64_t{1} << i;
      }
    }
  }
};
template <int kBits>
inline constexpr BytePlaces<kBits> kBytePlaces{};

// The codes' bytes, apart: out[b] has byte b of each of 64 codes. Reads `bytes` bytes.
template <int kBits>
HWY_INLINE void LoadCodes(const uint8_t* codes, size_t bytes, __m512i (&out)[kBits]) {
  __m512i in[4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    if (i >= kBits) {
      in[i] = _mm512_setzero_si512();
    } else if (bytes >= 64 * (i + 1)) {
      in[i] = _mm512_loadu_si512(codes + 64 * i);
    } else {
      const uint64_t rest = bytes > 64 * i ? (uint64_t{1} << (bytes - 64 * i)) - 1 : 0;
      in[i] = _mm512_maskz_loadu_epi8(rest, codes + 64 * i);
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < kBits; ++b) {
    out[b] = _mm512_permutex2var_epi8(in[0], _mm512_load_si512(kBytePlaces<kBits>.first[b]), in[1]);
    if constexpr (kBits > 2) {
      const __m512i rest =
          _mm512_permutex2var_epi8(in[2], _mm512_load_si512(kBytePlaces<kBits>.second[b]), in[3]);
      out[b] = _mm512_mask_mov_epi8(out[b], kBytePlaces<kBits>.in_second[b], rest);
    }
  }
}

// table[index] of 256 bytes.
HWY_INLINE __m512i LookUp256(const uint8_t* table, __m512i index, __mmask64 upper_half) {
  const auto half = [&](const uint8_t* from) HWY_ATTR {
    return _mm512_permutex2var_epi8(_mm512_load_si512(from), index, _mm512_load_si512(from + 64));
  };
  return _mm512_mask_mov_epi8(half(table), upper_half, half(table + 128));
}

// Each 64 bits' 8 bytes: those from bit kPitch * i on, i = 0 .. 7.
template <int kPitch>
HWY_INLINE __m512i SpreadBits(__m512i x) {
  constexpr int64_t p = kPitch;
  constexpr int64_t starts = 0 | p << 8 | 2 * p << 16 | 3 * p << 24 | 4 * p << 32 | 5 * p << 40 |
                             6 * p << 48 | 7 * p << 56;
  return _mm512_multishift_epi64_epi8(_mm512_set1_epi64(starts), x);
}

// Byte s * 8 + q of the first plane and of the second in 64-bit lane q: the two bytes of code q of
// step s.
HWY_INLINE __m512i StepBytes(__m512i low, __m512i high, size_t step) {
  const __m512i place = _mm512_add_epi8(
      _mm512_setr_epi64(0x4000, 0x4101, 0x4202, 0x4303, 0x4404, 0x4505, 0x4606, 0x4707),
      _mm512_set1_epi8(static_cast<char>(8 * step)));
  return _mm512_permutex2var_epi8(low, place, high);
}

// 64 E8P codes, from which the weights of 8 steps are made.
struct E8pChunk {
  __m512i entry_low, entry_high;  // coordinates 0 .. 3, 4 .. 7
  alignas(64) uint64_t negated[kChunkSteps];
  alignas(64) uint64_t outward[kChunkSteps];  // the shift enlarges the magnitude

  HWY_INLINE void Open(__m512i low, __m512i index) {
    const __mmask64 upper_half = _mm512_movepi8_mask(index);
    entry_low = LookUp256(kE8BitPlanes.magnitudes[0], index, upper_half);
    entry_high = LookUp256(kE8BitPlanes.magnitudes[1], index, upper_half);
    // Coordinate 0's sign: the parity of the others' and of the entry's bits 0.
    const __m512i others = _mm512_set1_epi8(static_cast<char>(0xFE));
    const __m512i odd = _mm512_ternarylogic_epi32(entry_low, entry_high, _mm512_set1_epi8(0x55),
                                                  /*(a ^ b) & c*/ 0x28);
    const __m512i parity =
        _mm512_popcnt_epi8(_mm512_ternarylogic_epi32(odd, low, others, /*a ^ (b & c)*/ 0x78));
    // Bits 1 .. 7 of the code, bit 0 of the count.
    const __m512i signs = _mm512_ternarylogic_epi32(others, low, parity, /*a ? b : c*/ 0xCA);
    _mm512_store_si512(negated, signs);
    // A shift of +1 enlarges what is not negated, one of -1 what is.
    const __mmask64 up = _mm512_test_epi8_mask(low, _mm512_set1_epi8(1));
    _mm512_store_si512(outward, _mm512_mask_sub_epi8(signs, up, _mm512_set1_epi8(-1), signs));
  }

  // Operand form: biased by 128.
  HWY_INLINE Bytes64 Step(size_t step) const {
    // Magnitudes 2, 6, 10 less 1.
    const __m512i magnitudes = _mm512_set1_epi32(static_cast<int>(0x80898581));
    const __m512i bits = SpreadBits<2>(StepBytes(entry_low, entry_high, step));
    const __m512i inward = _mm512_permutexvar_epi8(bits, magnitudes);
    const __m512i weight = _mm512_mask_add_epi8(inward, outward[step], inward, _mm512_set1_epi8(2));
    // 256 - (128 + magnitude)
    return _mm512_mask_sub_epi8(weight, negated[step], _mm512_setzero_si512(), weight);
  }
};

// 64 codes of the 1-bit E8 codebook.
struct OneBitChunk {
  __m512i entries[3];

  HWY_INLINE void Open(__m512i index) {
    const __mmask64 upper_half = _mm512_movepi8_mask(index);
#pragma GCC unroll 3
    for (int p = 0; p < 3; ++p) {
      entries[p] = LookUp256(kE8BitPlanes.one_bit[p], index, upper_half);
    }
  }

  HWY_INLINE Bytes64 Step(size_t step) const {
    const __m512i third = _mm512_add_epi8(
        _mm512_setr_epi64(0 << 16, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16),
        _mm512_set1_epi64(static_cast<int64_t>(8 * step) << 16));
    const __m512i bits = _mm512_mask_permutexvar_epi8(StepBytes(entries[0], entries[1], step),
                                                      0x0404040404040404, third, entries[2]);
    constexpr auto number = [](int i) { return static_cast<char>(E8BitPlanes::kOneBitNumbers[i]); };
    const __m512i numbers = _mm512_broadcast_i32x4(_mm_setr_epi8(
        number(0), number(1), number(2), number(3), number(4), number(5), number(6), number(7),
        number(0), number(1), number(2), number(3), number(4), number(5), number(6), number(7)));
    return ToOperand(_mm512_permutexvar_epi8(SpreadBits<3>(bits), numbers));
  }
};

struct NoChunk {
  HWY_INLINE Bytes64 Step(size_t) const { return _mm512_setzero_si512(); }
};

// 64 codes of both stages.
template <int kBits>
struct CodeChunk {
  E8pChunk first;
  std::conditional_t<kBits == 2, NoChunk, std::conditional_t<kBits == 3, OneBitChunk, E8pChunk>>
      second;

  HWY_INLINE void Open(const uint8_t* codes, size_t bytes) {
    __m512i byte[kBits];
    LoadCodes<kBits>(codes, bytes, byte);
    first.Open(byte[0], byte[1]);
    if constexpr (kBits == 3) second.Open(byte[2]);
    if constexpr (kBits == 4) second.Open(byte[2], byte[3]);
  }
};

// body(chunk, first step, steps) for a row's chunks in turn. Each is opened before the one ahead of
// it is used: masks are in memory for a while before they are loaded.
template <int kBits, class Body>
HWY_INLINE void ForChunks(const E8pView& view, size_t row, size_t steps, const Body& body) {
  const size_t row_bytes = view.vectors * kBits;
  const uint8_t* const codes = view.codes + row * row_bytes;
  CodeChunk<kBits> chunks[2];
  chunks[0].Open(codes, row_bytes);
  size_t which = 0;
  for (size_t step = 0; step < steps; step += kChunkSteps) {
    if (step + kChunkSteps < steps) {
      const size_t offset = (step / kChunkSteps + 1) * kChunkVectors * kBits;
#pragma GCC unroll 4
      for (size_t i = 0; i < kBits; ++i)
        __builtin_prefetch(codes + offset + kPrefetchBytes + 64 * i);
      chunks[1 - which].Open(codes + offset, row_bytes - offset);
    }
    body(chunks[which], step, HWY_MIN(kChunkSteps, steps - step));
    which = 1 - which;
  }
}

template <int kBits>
HWY_INLINE void DecodeRow(const E8pView& view, size_t row, size_t steps, uint8_t* first,
                          uint8_t* second) {
  ForChunks<kBits>(view, row, steps,
                   [&](const CodeChunk<kBits>& chunk, size_t step, size_t count) HWY_ATTR {
                     for (size_t s = 0; s < count; ++s) {
                       StoreBytes(chunk.first.Step(s), first + (step + s) * kStep);
                       if constexpr (kBits > 2) {
                         StoreBytes(chunk.second.Step(s), second + (step + s) * kStep);
                       }
                     }
                   });
}

#else

static_assert(std::endian::native == std::endian::little, "byte i of a word is coordinate i");

template <int kBits>
HWY_INLINE void DecodeRow(const E8pView& view, size_t row, size_t /*steps*/, uint8_t* first,
                          uint8_t* second) {
  const uint8_t* code = view.codes + row * view.vectors * kBits;
  const auto e8p = [&](int byte) HWY_ATTR {
    return kE8Vectors.E8p(static_cast<uint32_t>(code[byte] | code[byte + 1] << 8));
  };
  for (size_t v = 0; v < view.vectors; ++v, code += kBits) {
    const uint64_t bytes = e8p(0);
    hwy::CopyBytes<8>(&bytes, first + 8 * v);
    if constexpr (kBits == 2) continue;
    const uint64_t residual = kBits == 3 ? kE8Vectors.one_bit[code[2]] : e8p(kBits - 2);
    hwy::CopyBytes<8>(&residual, second + 8 * v);
  }
}

#endif

// Stages' sums of R rows and T tokens, scaled.
template <size_t R, size_t T>
HWY_INLINE void StoreTile(const E8pView& view, const ProductRange& range, size_t row, size_t token,
                          const float (&first)[T][R], const float (&second)[T][R]) {
  for (size_t t = 0; t < T; ++t) {
    float* const y = range.y + (token + t) * range.stride + row;
    for (size_t r = 0; r < R; ++r) {
      const float sum = view.second_unit == 0.0f
                            ? first[t][r]
                            : __builtin_fmaf(view.second_unit, second[t][r], first[t][r]);
      y[r] = view.scales[row + r] * sum;
    }
  }
}

#if HWY_TARGET == HWY_AVX3_DL

// kRows rows and one token. A row at a time, so that memory is read in one sweep.
template <int kBits, size_t kRows>
HWY_INLINE void MultiplyRowsOnce(const E8pView& view, const TokenTile<1>& x, size_t steps,
                                 const ProductRange& range, size_t row) {
  constexpr size_t kStages = kBits > 2 ? 2 : 1;
  Lanes sums[kStages][kRows][1];
  for (size_t r = 0; r < kRows; ++r) {
    Lanes first[1][1] = {{Splat(0.0f)}}, second[1][1] = {{Splat(0.0f)}};
    ForChunks<kBits>(view, row + r, steps,
                     [&](const CodeChunk<kBits>& chunk, size_t step, size_t count) HWY_ATTR {
                       const auto group = [&](size_t begin, size_t end) HWY_ATTR {
                         const size_t index = (step + begin) / kGroupSteps;
                         Sums16 blocks[1][1], second_blocks[1][1];
                         StartBlocks(x, index, blocks);
                         if constexpr (kBits > 2) StartBlocks(x, index, second_blocks);
#pragma GCC unroll 4
                         for (size_t s = begin; s < end; ++s) {
                           const Bytes64 a = x.Step(0, index, s - begin);
                           blocks[0][0] = Dot(blocks[0][0], chunk.first.Step(s), a);
                           if constexpr (kBits > 2) {
                             second_blocks[0][0] =
                                 Dot(second_blocks[0][0], chunk.second.Step(s), a);
                           }
                         }
                         AddBlocks(x, index, blocks, first);
                         if constexpr (kBits > 2) AddBlocks(x, index, second_blocks, second);
                       };
                       if (count == kChunkSteps) {
                         group(0, kGroupSteps);
                         group(kGroupSteps, kChunkSteps);
                       } else {
                         group(0, HWY_MIN(count, kGroupSteps));
                         if (count > kGroupSteps) group(kGroupSteps, count);
                       }
                     });
    sums[0][r][0] = first[0][0];
    if constexpr (kStages > 1) sums[1][r][0] = second[0][0];
  }
  float first[1][kRows], second[1][kRows] = {};
  ReduceTile<kRows, 1>(sums[0], first);
  if constexpr (kStages > 1) ReduceTile<kRows, 1>(sums[1], second);
  StoreTile<kRows, 1>(view, range, row, 0, first, second);
}

#endif

// R decoded rows and T tokens.
template <size_t R, size_t T>
HWY_INLINE void StageSums(const uint8_t* bytes, size_t stride, const TokenTile<T>& x, size_t steps,
                          float (&sums)[T][R]) {
  const OperandRows rows = {bytes, stride};
  ByteTile<R, T>(rows, x, steps, sums);
}

// R rows, decoded to memory.
template <int kBits, size_t R>
HWY_NOINLINE void MultiplyRows(const E8pView& view, const Activations& x, const ProductRange& range,
                               size_t row, uint8_t* scratch) {
  const size_t steps = x.padded_cols() / kStep, stride = SpreadStride<uint8_t>(x.padded_cols());
  uint8_t* const first = scratch;
  uint8_t* const second = scratch + E8pView::kRows * stride;
  for (size_t r = 0; r < R; ++r) {
    DecodeRow<kBits>(view, row + r, steps, first + r * stride, second + r * stride);
  }
  ForTokenTiles(range.tokens, [&]<size_t T>(size_t t) HWY_ATTR {
    const TokenTile<T> tokens(x, range.first_token + t);
    float sums[T][R], second_sums[T][R] = {};
    StageSums<R, T>(first, stride, tokens, steps, sums);
    if constexpr (kBits > 2) StageSums<R, T>(second, stride, tokens, steps, second_sums);
    StoreTile<R, T>(view, range, row, t, sums, second_sums);
  });
}

template <int kBits>
HWY_INLINE void MultiplyBits(const E8pView& view, const Activations& x, const ProductRange& range,
                             uint8_t* scratch) {
  size_t row = range.row_begin;
#if HWY_TARGET == HWY_AVX3_DL
  if (range.tokens == 1) {
    const TokenTile<1> token(x, range.first_token);
    const size_t steps = x.padded_cols() / kStep;
    for (; row + 4 <= range.row_end; row += 4) {
      MultiplyRowsOnce<kBits, 4>(view, token, steps, range, row);
    }
    for (; row < range.row_end; ++row) MultiplyRowsOnce<kBits, 1>(view, token, steps, range, row);
    return;
  }
#endif
  for (; row + kByteRows <= range.row_end; row += kByteRows) {
    MultiplyRows<kBits, kByteRows>(view, x, range, row, scratch);
  }
  for (; row < range.row_end; ++row) MultiplyRows<kBits, 1>(view, x, range, row, scratch);
}

void MultiplyRates(const E8pView& view, const Activations& x, const ProductRange& range,
                   uint8_t* scratch) {
  if (view.bits == 2) return MultiplyBits<2>(view, x, range, scratch);
  if (view.bits == 3) return MultiplyBits<3>(view, x, range, scratch);
  MultiplyBits<4>(view, x, range, scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(MultiplyRates);

void MultiplyE8p(const E8pView& view, const Activations& x, const ProductRange& range) {
  thread_local AlignedVector<uint8_t> scratch;
  scratch.resize(2 * E8pView::kRows * SpreadStride<uint8_t>(x.padded_cols()));
  HWY_DYNAMIC_DISPATCH(MultiplyRates)(view, x, range, scratch.data());
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
