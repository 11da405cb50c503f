// a * b + c rounded once, on every SIMD target: what makes a sum of products have the same bits
// whatever the machine.
//
// Included once per SIMD target (see hwy/foreach_target.h). Functions here must not instantiate
// standard library templates: those would be compiled for the target and could be the copies that
// the linker keeps for everyone.
#if defined(QUANTLOOM_CORE_BASE_FMA_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTLOOM_CORE_BASE_FMA_INL_H_
#undef QUANTLOOM_CORE_BASE_FMA_INL_H_
#else
#define QUANTLOOM_CORE_BASE_FMA_INL_H_
#endif

#include <cmath>
#include <cstddef>

#include "hwy/highway.h"

// Where Highway emulates vectors its multiply-add rounds twice, which would change bits.
#undef QUANTLOOM_EMULATED
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
#define QUANTLOOM_EMULATED 1
#else
#define QUANTLOOM_EMULATED 0
#endif

HWY_BEFORE_NAMESPACE();
namespace quantloom {
namespace HWY_NAMESPACE {

template <class V>
HWY_INLINE V Fma(V a, V b, V c) {
  namespace hn = hwy::HWY_NAMESPACE;
#if QUANTLOOM_EMULATED
  using D = hn::DFromV<V>;
  constexpr size_t kCount = hn::MaxLanes(D());
  HWY_ALIGN hn::TFromD<D> x[kCount], y[kCount], z[kCount];
  hn::Store(a, D(), x);
  hn::Store(b, D(), y);
  hn::Store(c, D(), z);
  for (size_t i = 0; i < kCount; ++i) z[i] = std::fma(x[i], y[i], z[i]);
  return hn::Load(D(), z);
#else
  return hn::MulAdd(a, b, c);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
