// The natural exponential as a polynomial, the same bits on every SIMD target.
#if defined(QUANTLOOM_KERNELS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_KERNELS_CPU_EXP_INL_H_
#undef QUANTLOOM_KERNELS_CPU_EXP_INL_H_
#else
#define QUANTLOOM_KERNELS_CPU_EXP_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// e^x for each lane, within 1 ulp where the result is normal; 0 below -104, infinity above 88.73,
// NaN for NaN. About 20 operations:
//   x = k ln 2 + r, |r| <= ln 2 / 2;  e^x = 2^k (1 + r + r^2 P(r)), P of degree 5 (Cephes expf).
// k is rounded by adding 1.5 * 2^23, whose unit in the last place is 1: the sum's low bits are k.
// 2^k is multiplied in two halves because k reaches -150 (subnormal results) and 128.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpVec(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V clamped = hn::Min(hn::Max(x, hn::Set(d, -104.0f)), hn::Set(d, 89.0f));
  const V magic = hn::Set(d, 0x1.8p23f);
  const V shifted = Fma(clamped, hn::Set(d, 0x1.715476p+0f), magic);  // 1 / ln 2
  const V k = hn::Sub(shifted, magic);
  // ln 2 in two parts; k times the first is exact.
  V r = Fma(k, hn::Set(d, -0x1.62e4p-1f), clamped);
  r = Fma(k, hn::Set(d, -0x1.7f7d1cp-20f), r);
  V p = hn::Set(d, 1.9875691500e-4f);
  p = Fma(p, r, hn::Set(d, 1.3981999507e-3f));
  p = Fma(p, r, hn::Set(d, 8.3334519073e-3f));
  p = Fma(p, r, hn::Set(d, 4.1665795894e-2f));
  p = Fma(p, r, hn::Set(d, 1.6666665459e-1f));
  p = Fma(p, r, hn::Set(d, 5.0000001201e-1f));
  p = Fma(hn::Mul(r, r), p, r);
  p = hn::Add(p, hn::Set(d, 1.0f));
  const auto ki = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, magic));
  const auto low = hn::ShiftRight<1>(ki);
  const auto high = hn::Sub(ki, low);
  const auto bias = hn::Set(di, 127);
  p = hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(low, bias))));
  p = hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(high, bias))));
  return hn::IfThenElse(hn::Eq(x, x), p, x);
}

HWY_INLINE Lanes ExpLanes(const Lanes& x) {
  Lanes r;
  QUANTLOOM_EACH_VEC r.v[i] = ExpVec(LaneTag(), x.v[i]);
  return r;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
