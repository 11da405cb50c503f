// 3INST, the code of QTIP whose values are sums of two binary16 numbers. The two halves of a
// congruence become int16 integers, multiples of 2^-13 (trellis_code.h), and the product adds them
// up, since both are multiplied with the same activation.
//
// A half is (1024 + m) 2^e with a sign: ten bits of the half are m, the six above tell 2^e and the
// sign, and all six index a table of factors. What 16 weights and one activation row take beside
// the states (trellis_states-inl.h):
//   AVX3_DL   7: a multiplication and an addition; a ternary operation leaves 1024 + m, a shift and
//             a look-up give the factor, which it is multiplied with; vpdpwssd. With the
//             states 9.3, of which two can start in a cycle (Zen 4): 4.6 cycles, at 3.6 GHz 12.4
//             billion weights/s; 10.2 measured.
//   AVX3      8: vpmaddwd and an addition in place of vpdpwssd
//   AVX2      2 x 14: a byte shuffle gives 2^e, vpsignw the sign
#include "kernels/cpu/trellis_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/trellis_3inst.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/trellis_product-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// What a half's mantissa, with its leading one, is made of: (half & kMantissa) | kMantissaFlips.
constexpr int kMantissa = 0x3FF;
constexpr int kMantissaFlips = (k3InstFlipped & kMantissa) | 0x400;

#if QUANTLOOM_X86_512
// By a half's upper six bits before they are masked and flipped: the power of two, with the sign.
struct FactorTable {
  alignas(64) int16_t factors[64];
  constexpr FactorTable() : factors() {
    for (uint32_t i = 0; i < 64; ++i) {
      const uint32_t half = ((i << 10) & k3InstKept & 0xFFFF) ^ (k3InstFlipped & 0xFC00);
      factors[i] = static_cast<int16_t>(Code3InstHalf(half) / 1024);
    }
  }
};
constexpr FactorTable kFactors;
#endif

#if QUANTLOOM_X86_256
HWY_INLINE __m256i Halves256(__m256i x) {
  const __m256i mantissa = _mm256_xor_si256(_mm256_and_si256(x, _mm256_set1_epi16(kMantissa)),
                                            _mm256_set1_epi16(kMantissaFlips));
  // The two bits of e, whose upper one is flipped, look up 2^e; bit 7 of the other byte gives zero.
  const __m256i factors =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(4, 8, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i e =
      _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 10), _mm256_set1_epi16(3)),
                      _mm256_set1_epi16(static_cast<int16_t>(0x8000)));
  const __m256i magnitude = _mm256_mullo_epi16(mantissa, _mm256_shuffle_epi8(factors, e));
  // A sign of zero would give zero.
  return _mm256_sign_epi16(magnitude, _mm256_or_si256(x, _mm256_set1_epi16(1)));
}
#endif

struct ThreeInst {
  static constexpr size_t kStateColumns = 1;

  template <size_t kColumn>
  static HWY_INLINE Bytes64 Spread(const Bytes64& codes) {
    return SpreadWords<kColumn, kColumn>(codes);
  }

  // Two integers of 16 bits a lane.
  static HWY_INLINE Words16 Weights(const Words16& states) {
    const Words16 x = AddWords(MultiplyWords(states, k3InstMultiplier), k3InstAddend);
#if QUANTLOOM_X86_512
    // (x & mask) ^ flips
    const __m512i mantissa = _mm512_ternarylogic_epi32(x, _mm512_set1_epi16(kMantissa),
                                                       _mm512_set1_epi16(kMantissaFlips), 0x6A);
    const __m512i factor =
        _mm512_permutex2var_epi16(_mm512_load_si512(kFactors.factors), _mm512_srli_epi16(x, 10),
                                  _mm512_load_si512(kFactors.factors + 32));
    return _mm512_mullo_epi16(mantissa, factor);
#elif QUANTLOOM_X86_256
    return {Halves256(x.lo), Halves256(x.hi)};
#else
    Words16 r;
    for (size_t l = 0; l < kLanes; ++l) {
      const uint32_t halves = (static_cast<uint32_t>(x.s[l]) & k3InstKept) ^ k3InstFlipped;
      r.s[l] =
          static_cast<int32_t>((static_cast<uint32_t>(Code3InstHalf(halves & 0xFFFF)) & 0xFFFF) |
                               static_cast<uint32_t>(Code3InstHalf(halves >> 16)) << 16);
    }
    return r;
#endif
  }

  static HWY_INLINE Sums16 Dot(const Sums16& sums, const Words16& halves, const Bytes64& a) {
    return DotWords(sums, halves, a);
  }

  static HWY_INLINE Sums16 Start(const int32_t* /*biases*/) { return ZeroSums(); }
};

void Multiply3Inst(const TrellisView& view, const Activations& x, const ProductRange& range,
                   const TrellisPanel& panel) {
  MultiplyEveryRate<ColumnProduct<ThreeInst>>(view, x, range, panel);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(Multiply3Inst);

void Multiply3InstTrellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                          const TrellisPanel& panel) {
  HWY_DYNAMIC_DISPATCH(Multiply3Inst)(view, x, range, panel);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
