// Weights of an ICQuant stream (icquant_stream.h) as bytes in registers, 64 columns a step.
//
// Codes and flags are never separated from what else is in their bytes: an index lies in a byte's
// low bits with anything above it, and a table that repeats itself gives the level.
//
// What 512 weights with n = 2 and outliers cost on AVX3_DL, one token, in slots of the four 256-bit
// pipes of Zen 4, of which every 512-bit operation takes two:
//   vpexpandb, once                                    12   (pipes 1, 2: shuffles)
//   shifts of flags, codes and odd steps: 3 + 2 + 4    18   (pipes 2, 3)
//   vpternlog for each pair of steps: 4                 8   (any)
//   vpermb for each step: 8                            16   (pipes 1, 2)
//   vpdpbusd for each step: 8                          16   (pipes 0, 1)
//   conversion and FMA of a group                       4   (pipes 2, 3 and 0, 1)
// together 74, 18.5 cycles; 24 were measured with two groups (a chunk's loads are another 16).
// Broadcasting loads and moves to mask registers run on pipes 1, 2 and 0, 1: a bitmap, with codes
// broadcast from 16 bytes a step, took 37. A core decodes 75 billion weights/s, 22 GB/s, about what
// it can read from memory. On Zen 5, whose pipes take 512 bits, the same are 9 cycles and 15 are
// measured.
#if defined(QUANTLOOM_KERNELS_CPU_ICQUANT_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_ICQUANT_STREAM_INL_H_
#undef QUANTLOOM_KERNELS_CPU_ICQUANT_STREAM_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_ICQUANT_STREAM_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/icquant_codes-inl.h"
#include "kernels/cpu/icquant_stream.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// Every byte shifted left by kBy, right by -kBy. Bits of neighbours may come in where zeros would:
// who uses the result masks them or ignores them.
template <int kBy>
HWY_INLINE Bytes64 ShiftBytes(const Bytes64& x) {
  if constexpr (kBy == 0) return x;
  constexpr int kLeft = HWY_MAX(kBy, 0), kRight = HWY_MAX(-kBy, 0);
#if QUANTLOOM_X86_512
  if constexpr (kBy > 0) return _mm512_slli_epi16(x, kLeft);
  return _mm512_srli_epi16(x, kRight);
#elif QUANTLOOM_X86_256
  if constexpr (kBy > 0) return {_mm256_slli_epi16(x.lo, kLeft), _mm256_slli_epi16(x.hi, kLeft)};
  return {_mm256_srli_epi16(x.lo, kRight), _mm256_srli_epi16(x.hi, kRight)};
#else
  Bytes64 r;
  for (size_t c = 0; c < kStep; ++c) {
    r.b[c] = static_cast<int8_t>(static_cast<uint8_t>(x.b[c]) << kLeft >> kRight);
  }
  return r;
#endif
}

// The bits of kMask from `a`, the others from `b`, in every byte.
template <int kMask>
HWY_INLINE Bytes64 Select(const Bytes64& a, const Bytes64& b) {
#if QUANTLOOM_X86_512
  return _mm512_ternarylogic_epi64(_mm512_set1_epi8(static_cast<char>(kMask)), a, b, 0xCA);
#elif QUANTLOOM_X86_256
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(kMask));
  const auto select = [&](__m256i x, __m256i y) HWY_ATTR {
    return _mm256_or_si256(_mm256_and_si256(mask, x), _mm256_andnot_si256(mask, y));
  };
  return {select(a.lo, b.lo), select(a.hi, b.hi)};
#else
  Bytes64 r;
  for (size_t c = 0; c < kStep; ++c) {
    r.b[c] = static_cast<int8_t>((a.b[c] & kMask) | (b.b[c] & ~kMask));
  }
  return r;
#endif
}

// Levels for indices of kIndexBits = 1..5 bits, in the form that Dot takes, repeated so that bits
// above an index do not matter: 64 bytes for vpermb; 16 in every 128 bits for byte shuffles, twice
// for 5 bits.
template <int kIndexBits>
struct LevelTable {
#if HWY_TARGET == HWY_AVX3_DL
  __m512i levels;
#elif QUANTLOOM_X86_512
  __m512i first, second;
#elif QUANTLOOM_X86_256
  __m256i first, second;
#else
  int8_t levels[1 << kIndexBits];
#endif
};

#if QUANTLOOM_X86_512 || QUANTLOOM_X86_256
// kCount = 2, 4, 8 or 16 bytes, repeated to 16.
template <size_t kCount>
HWY_INLINE __m128i Repeated16(const int8_t* from) {
  if constexpr (kCount == 16) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  } else {
    uint64_t bytes = 0;
    hwy::CopyBytes<kCount>(from, &bytes);
    if constexpr (kCount == 2) bytes |= bytes << 16;
    if constexpr (kCount <= 4) bytes |= bytes << 32;
    return _mm_set1_epi64x(static_cast<int64_t>(bytes));
  }
}
#endif

template <int kIndexBits>
HWY_INLINE LevelTable<kIndexBits> LoadLevels(const int8_t* from) {
  LevelTable<kIndexBits> table;
  constexpr size_t kCount = HWY_MIN(size_t{1} << kIndexBits, size_t{16});
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (kIndexBits == 5) {
    table.levels =
        _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  } else {
    table.levels = _mm512_broadcast_i32x4(Repeated16<kCount>(from));
  }
  table.levels = ToOperand(table.levels);
#elif QUANTLOOM_X86_512
  table.first = _mm512_broadcast_i32x4(Repeated16<kCount>(from));
  table.second = table.first;
  if constexpr (kIndexBits == 5) {
    table.second = _mm512_broadcast_i32x4(Repeated16<kCount>(from + 16));
  }
#elif QUANTLOOM_X86_256
  table.first = _mm256_broadcastsi128_si256(Repeated16<kCount>(from));
  table.second = table.first;
  if constexpr (kIndexBits == 5) {
    table.second = _mm256_broadcastsi128_si256(Repeated16<kCount>(from + 16));
  }
#else
  hwy::CopyBytes<kCount << (kIndexBits == 5)>(from, table.levels);
#endif
  return table;
}

#if QUANTLOOM_X86_256
template <int kIndexBits>
HWY_INLINE __m256i LookUp256(const LevelTable<kIndexBits>& table, __m256i index) {
  // A shuffle reads bits 0 to 3, and bit 7, which must be zero; a blend reads bit 7.
  const __m256i low = _mm256_and_si256(index, _mm256_set1_epi8(15));
  const __m256i levels = _mm256_shuffle_epi8(table.first, low);
  if constexpr (kIndexBits < 5) return levels;
  return _mm256_blendv_epi8(levels, _mm256_shuffle_epi8(table.second, low),
                            _mm256_slli_epi16(index, 3));
}
#endif

// The levels of the indices in the bytes' low kIndexBits bits.
template <int kIndexBits>
HWY_INLINE Bytes64 LookUp(const LevelTable<kIndexBits>& table, const Bytes64& index) {
#if HWY_TARGET == HWY_AVX3_DL
  return _mm512_permutexvar_epi8(index, table.levels);
#elif QUANTLOOM_X86_512
  const __m512i low = _mm512_and_si512(index, _mm512_set1_epi8(15));
  const __m512i levels = _mm512_shuffle_epi8(table.first, low);
  if constexpr (kIndexBits < 5) return levels;
  return _mm512_mask_shuffle_epi8(levels, _mm512_movepi8_mask(_mm512_slli_epi16(index, 3)),
                                  table.second, low);
#elif QUANTLOOM_X86_256
  return {LookUp256<kIndexBits>(table, index.lo), LookUp256<kIndexBits>(table, index.hi)};
#else
  Bytes64 r;
  for (size_t c = 0; c < kStep; ++c) {
    r.b[c] = table.levels[static_cast<size_t>(index.b[c]) & ((1u << kIndexBits) - 1)];
  }
  return r;
#endif
}

// The 64 flag bytes of a chunk, of which those of `present` are at `bytes`; moves `bytes` behind
// them.
HWY_INLINE Bytes64 ReadFlags(uint64_t present, const uint8_t*& bytes) {
#if HWY_TARGET == HWY_AVX3_DL
  const uint8_t* const from = bytes;
  bytes += hwy::PopCount(present);
  // The zeroing form waits for what its register held before (Zen 5), which chains every chunk to
  // the last one: 18 cycles a chunk, 12 without. A zero that the compiler does not know of makes
  // it the merging form.
  __m512i zero = _mm512_setzero_si512();
  __asm__("" : "+v"(zero));
  return _mm512_mask_expand_epi8(zero, _cvtu64_mask64(present), _mm512_loadu_si512(from));
#elif QUANTLOOM_X86_512 || QUANTLOOM_X86_256
  const auto next_8 = [&]() HWY_ATTR {
    const size_t mask = present & 255;
    const __m128i expanded = _mm_shuffle_epi8(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)),
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpandTable.shuffles[mask])));
    bytes += hwy::PopCount(mask);
    present >>= 8;
    return expanded;
  };
  const auto next_32 = [&]() HWY_ATTR {
    const __m128i a = next_8(), b = next_8(), c = next_8(), d = next_8();
    return _mm256_set_m128i(_mm_unpacklo_epi64(c, d), _mm_unpacklo_epi64(a, b));
  };
  const __m256i low = next_32(), high = next_32();
#if QUANTLOOM_X86_512
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#else
  return {low, high};
#endif
#else
  Bytes64 flags;
  for (size_t c = 0; c < kStep; ++c) {
    flags.b[c] = (present >> c & 1) != 0 ? static_cast<int8_t>(*bytes++) : int8_t{0};
  }
  return flags;
#endif
}

// A row's bytes of a chunk in registers.
template <int kBits, bool kOutliers>
struct Chunk {
  static constexpr int kIndexBits = kBits + (kOutliers ? 1 : 0);

  Bytes64 codes[kBits];
  Bytes64 flags;  // with outliers

  HWY_INLINE void LoadCodes(const uint8_t* from) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kBits; ++v) codes[v] = LoadBytes(from + v * kStep);
  }

  // The codes of steps 2 kPair and 2 kPair + 1, in the low bits of the bytes' halves.
  template <int kPair>
  HWY_INLINE Bytes64 PairCodes() const {
    if constexpr (kBits == 1) return ShiftBytes<-kPair>(codes[0]);
    if constexpr (kBits == 2) return ShiftBytes<kPair % 2 * -2>(codes[kPair / 2]);
    if constexpr (kBits == 3 && kPair == 3) {
      // Bit b of the codes from bits 3 and 7 of vector b.
      return Select<0x11>(ShiftBytes<-3>(codes[0]),
                          Select<0x22>(ShiftBytes<-2>(codes[1]), ShiftBytes<-1>(codes[2])));
    }
    if constexpr (kBits >= 3) return codes[kPair];
  }

  // Step kAt's indices in the bytes' low bits.
  template <int kAt>
  HWY_INLINE Bytes64 Indices() const {
    constexpr int kPair = kAt / 2, kToLowHalf = kAt % 2 * -4;
    const Bytes64 pair = PairCodes<kPair>();
    if constexpr (!kOutliers) return ShiftBytes<kToLowHalf>(pair);
    if constexpr (kBits == 4) {
      return Select<0x10>(ShiftBytes<4 - FlagBit(4, kAt)>(flags), ShiftBytes<kToLowHalf>(pair));
    } else {
      constexpr int kShift = kBits - FlagBit(kBits, 2 * kPair);
      return ShiftBytes<kToLowHalf>(Select<0x11 << kBits>(ShiftBytes<kShift>(flags), pair));
    }
  }
};

// Bit c of `outliers` at bit kBit of byte c.
template <int kBit>
HWY_INLINE Bytes64 SpreadFlags(uint64_t outliers) {
#if QUANTLOOM_X86_512
  return _mm512_maskz_set1_epi8(_cvtu64_mask64(outliers), 1 << kBit);
#elif QUANTLOOM_X86_256
  const auto spread = [](uint32_t bits) HWY_ATTR {
    // Byte i gets a copy of the bits' byte i / 8, of which bit i % 8 is tested.
    const __m256i bytes =
        _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)),
                            _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2,
                                             2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit),
                            _mm256_set1_epi8(1 << kBit));
  };
  return {spread(static_cast<uint32_t>(outliers)), spread(static_cast<uint32_t>(outliers >> 32))};
#else
  Bytes64 r;
  for (size_t c = 0; c < kStep; ++c) r.b[c] = static_cast<int8_t>((outliers >> c & 1) << kBit);
  return r;
#endif
}

// Bytes of a step behind a row's last chunk.
template <int kBits, bool kOutliers>
constexpr size_t TailStepBytes() {
  return CodeBlockBytes(kBits, kStep) + (kOutliers ? sizeof(uint64_t) : 0);
}

// The indices of a step behind a row's last chunk.
template <int kBits, bool kOutliers>
HWY_INLINE Bytes64 TailIndices(const uint8_t* step) {
  const Bytes64 codes = UnpackCodes<kBits>(step);
  if constexpr (!kOutliers) return codes;
  uint64_t outliers;
  hwy::CopyBytes<8>(step + CodeBlockBytes(kBits, kStep), &outliers);
  return Select<1 << kBits>(SpreadFlags<kBits>(outliers), codes);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
