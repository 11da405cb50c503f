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
#include "kernels/cpu/trellis_product-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// Column kColumn of each lane's four of a step's activation codes, in the form that DotBytes takes:
// on AVX3_DL four times, a byte each; elsewhere twice, in 16 bits.
template <size_t kColumn>
HWY_INLINE Bytes64 SpreadColumn(const Bytes64& codes) {
#if HWY_TARGET == HWY_AVX3_DL
  constexpr int c = kColumn;
  return _mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        c, c, c, c, c + 4, c + 4, c + 4, c + 4, c + 8, c + 8, c + 8,
                                        c + 8, c + 12, c + 12, c + 12, c + 12)));
#else
  return SpreadWords<kColumn, kColumn>(codes);
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

template <TrellisCode kCode>
struct ByteSums {
  static constexpr size_t kStateColumns = 1;
  template <size_t kColumn>
  static HWY_INLINE Bytes64 Spread(const Bytes64& codes) {
    return SpreadColumn<kColumn>(codes);
  }
  static HWY_INLINE Words16 Weights(const Words16& states) {
    if constexpr (kCode == TrellisCode::kMul1) return MultiplyWords(states, kMul1Multiplier);
    return AddWords(MultiplyWords(states, k1MadMultiplier), k1MadAddend);
  }
  static HWY_INLINE Sums16 Dot(const Sums16& sums, const Words16& bytes, const Bytes64& a) {
    return DotBytes(sums, bytes, a);
  }
  static HWY_INLINE Sums16 Start(const int32_t* biases) { return StartByteSums(biases); }
};

void MultiplyMul1(const TrellisView& view, const Activations& x, const ProductRange& range,
                  const TrellisPanel& panel) {
  MultiplyEveryRate<ColumnProduct<ByteSums<TrellisCode::kMul1>>>(view, x, range, panel);
}
void Multiply1Mad(const TrellisView& view, const Activations& x, const ProductRange& range,
                  const TrellisPanel& panel) {
  MultiplyEveryRate<ColumnProduct<ByteSums<TrellisCode::k1Mad>>>(view, x, range, panel);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(MultiplyMul1);
HWY_EXPORT(Multiply1Mad);

void MultiplyMul1Trellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                         const TrellisPanel& panel) {
  HWY_DYNAMIC_DISPATCH(MultiplyMul1)(view, x, range, panel);
}

void Multiply1MadTrellis(const TrellisView& view, const Activations& x, const ProductRange& range,
                         const TrellisPanel& panel) {
  HWY_DYNAMIC_DISPATCH(Multiply1Mad)(view, x, range, panel);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
