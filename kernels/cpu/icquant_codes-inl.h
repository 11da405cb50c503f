// From the stored bits of ICQuant rows to bytes in registers: 64 columns a step.
#if defined(QUANTLOOM_KERNELS_CPU_ICQUANT_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_ICQUANT_CODES_INL_H_
#undef QUANTLOOM_KERNELS_CPU_ICQUANT_CODES_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_ICQUANT_CODES_INL_H_
#endif

#include "core/codec/code_packing.h"
#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// The codes of a full block of 64 columns, one byte each. The strided packing (code_packing.h)
// makes this one broadcast load, one shift whose count varies by lane, one mask:
//   n = 4: 32 bytes twice, shifted by 0 and 4;   n = 2: 16 bytes four times, by 0, 2, 4, 6;
//   n = 1: 8 bytes eight times, by 0..7;         n = 3: the 2-bit and the 1-bit part together.
// Shifts are of wider lanes than bytes; the mask removes what crosses over.
template <int kBits>
HWY_INLINE Bytes64 UnpackCodes(const uint8_t* block) {
  if constexpr (kBits == 8) return LoadBytes(block);
#if QUANTLOOM_X86_512
  const auto mask = [](int value) HWY_ATTR { return _mm512_set1_epi8(static_cast<char>(value)); };
  if constexpr (kBits == 4) {
    const __m512i twice =
        _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block)));
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    return _mm512_and_si512(_mm512_srlv_epi16(twice, shifts), mask(15));
  }
  const auto broadcast_8 = [](const uint8_t* bytes) HWY_ATTR {
    int64_t eight;
    hwy::CopyBytes<8>(bytes, &eight);
    return _mm512_set1_epi64(eight);
  };
  if constexpr (kBits == 1) {
    return _mm512_and_si512(
        _mm512_srlv_epi64(broadcast_8(block), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)), mask(1));
  } else {
    const __m512i two_bits = _mm512_srlv_epi32(
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block))),
        _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6));
    if constexpr (kBits == 2) return _mm512_and_si512(two_bits, mask(3));
    // Bit j of each byte belongs at bit 2: rotated right by j - 2. (high & 4) | (two_bits & 3) is
    // "high where the mask 4 is set, else two_bits" with bits 3 and up cleared.
    const __m512i high =
        _mm512_rorv_epi64(broadcast_8(block + 16), _mm512_setr_epi64(62, 63, 0, 1, 2, 3, 4, 5));
    const __m512i merged = _mm512_ternarylogic_epi64(mask(4), high, two_bits, 0xCA);
    return _mm512_and_si512(merged, mask(7));
  }
#elif QUANTLOOM_X86_256
  const auto both = [](__m256i lo, __m256i hi, int value) HWY_ATTR {
    const __m256i mask = _mm256_set1_epi8(static_cast<char>(value));
    return Bytes64{_mm256_and_si256(lo, mask), _mm256_and_si256(hi, mask)};
  };
  if constexpr (kBits == 4) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block));
    return both(pairs, _mm256_srli_epi16(pairs, 4), 15);
  }
  const auto broadcast_8 = [](const uint8_t* bytes) HWY_ATTR {
    int64_t eight;
    hwy::CopyBytes<8>(bytes, &eight);
    return _mm256_set1_epi64x(eight);
  };
  if constexpr (kBits == 1) {
    const __m256i four_times = broadcast_8(block);
    return both(_mm256_srlv_epi64(four_times, _mm256_setr_epi64x(0, 1, 2, 3)),
                _mm256_srlv_epi64(four_times, _mm256_setr_epi64x(4, 5, 6, 7)), 1);
  } else {
    const __m256i twice =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
    const Bytes64 two_bits =
        both(_mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2)),
             _mm256_srlv_epi32(twice, _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6)), 3);
    if constexpr (kBits == 2) return two_bits;
    const __m256i four_times = broadcast_8(block + 16);
    // Bit j of each byte belongs at bit 2. The first four are shifted left by 2 beforehand; what
    // that drops belongs to bits 6 and 7.
    const __m256i ahead = _mm256_slli_epi64(four_times, 2);
    const Bytes64 high = both(_mm256_srlv_epi64(ahead, _mm256_setr_epi64x(0, 1, 2, 3)),
                              _mm256_srlv_epi64(four_times, _mm256_setr_epi64x(2, 3, 4, 5)), 4);
    return {_mm256_or_si256(two_bits.lo, high.lo), _mm256_or_si256(two_bits.hi, high.hi)};
  }
#else
  Bytes64 codes;
  for (uint32_t c = 0; c < kStep; ++c) {
    codes.b[c] = static_cast<int8_t>(BlockCode(block, kBits, kStep, c));
  }
  return codes;
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
