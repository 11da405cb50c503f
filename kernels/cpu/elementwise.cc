// Norm, rotary embedding, gated activation, addition, exponential.
#include <cmath>
#include <cstddef>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

using OneTag = hn::CappedTag<float, 1>;  // what full vectors leave over, one element at a time

// Calls f(tag, i) for every vector of [0, n), then for single elements. Only for operators that
// treat elements independently: the width does not show in the result.
template <class F>
HWY_INLINE void ForEachElement(size_t n, const F& f) {
  size_t i = 0;
  for (; i + kVecLanes <= n; i += kVecLanes) f(LaneTag(), i);
  for (; i < n; ++i) f(OneTag(), i);
}

void RmsNorm(const float* x, const float* weight, size_t n, float eps, float* out) {
  Lanes squares = Splat(0.0f);
  const size_t full = n / kLanes * kLanes;
  for (size_t i = 0; i < full; i += kLanes) {
    const Lanes v = LoadLanes(x + i);
    squares = Fma(v, v, squares);
  }
  if (full != n) {
    const Lanes v = LoadLanesPartial(x + full, n - full);
    squares = Fma(v, v, squares);
  }
  const float inverse = 1.0f / std::sqrt(TreeSum(squares) / static_cast<float>(n) + eps);
  ForEachElement(n, [&](auto d, size_t i) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse));
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, weight + i)), d, out + i);
  });
}

void Rope(float* head, const float* cos, const float* sin, size_t head_dim) {
  const size_t half = head_dim / 2;
  ForEachElement(half, [&](auto d, size_t i) HWY_ATTR {
    const auto c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    const auto a = hn::LoadU(d, head + i), b = hn::LoadU(d, head + half + i);
    hn::StoreU(Fma(a, c, hn::Neg(hn::Mul(b, s))), d, head + i);
    hn::StoreU(Fma(b, c, hn::Mul(a, s)), d, head + half + i);
  });
}

void SwiGlu(const float* gate, const float* up, size_t n, float* out) {
  ForEachElement(n, [&](auto d, size_t i) HWY_ATTR {
    const auto g = hn::LoadU(d, gate + i);
    const auto silu = hn::Div(g, hn::Add(hn::Set(d, 1.0f), ExpVec(d, hn::Neg(g))));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + i)), d, out + i);
  });
}

void AddTo(float* x, const float* y, size_t n) {
  ForEachElement(n, [&](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, x + i);
  });
}

float Exp(float x) { return hn::GetLane(ExpVec(OneTag(), hn::Set(OneTag(), x))); }

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(RmsNorm);
HWY_EXPORT(Rope);
HWY_EXPORT(SwiGlu);
HWY_EXPORT(AddTo);
HWY_EXPORT(Exp);

void RmsNorm(const float* x, const float* weight, size_t n, float eps, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, weight, n, eps, out);
}
void Rope(float* head, const float* cos, const float* sin, size_t head_dim) {
  HWY_DYNAMIC_DISPATCH(Rope)(head, cos, sin, head_dim);
}
void SwiGlu(const float* gate, const float* up, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SwiGlu)(gate, up, n, out);
}
void Add(float* x, const float* y, size_t n) { HWY_DYNAMIC_DISPATCH(AddTo)(x, y, n); }
float Exp(float x) { return HWY_DYNAMIC_DISPATCH(Exp)(x); }

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
