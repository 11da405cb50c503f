// Reductions over a row of logits.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/logits.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// The largest value that is not NaN; -infinity when there is none.
float MaxIgnoringNan(const float* x, size_t n) {
  LaneVec max = hn::Set(LaneTag(), -HUGE_VALF);
  size_t i = 0;
  for (; i + kVecLanes <= n; i += kVecLanes) {
    const LaneVec v = hn::LoadU(LaneTag(), x + i);
    max = hn::IfThenElse(hn::Gt(v, max), v, max);  // false for NaN
  }
  HWY_ALIGN float lanes[kVecLanes];
  hn::Store(max, LaneTag(), lanes);
  float result = -HUGE_VALF;
  for (const float lane : lanes) result = lane > result ? lane : result;
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

size_t ArgMax(const float* x, size_t n) {
  const float max = MaxIgnoringNan(x, n);
  const LaneVec target = hn::Set(LaneTag(), max);
  size_t i = 0;
  for (; i + kVecLanes <= n; i += kVecLanes) {
    const auto found = hn::FindFirstTrue(LaneTag(), hn::Eq(hn::LoadU(LaneTag(), x + i), target));
    if (found >= 0) return i + static_cast<size_t>(found);
  }
  for (; i < n; ++i) {
    if (x[i] == max) return i;
  }
  return 0;  // all NaN
}

// sum(exp(x - max)), lane l takes elements i = l mod 16.
float SumExp(const float* x, size_t n, float max) {
  const Lanes negative_max = Splat(-max);
  Lanes sum = Splat(0.0f);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    sum = Add(sum, ExpLanes(Add(LoadLanes(x + i), negative_max)));
  }
  if (i < n) {
    HWY_ALIGN float rest[kLanes];
    for (size_t l = 0; l < kLanes; ++l) rest[l] = i + l < n ? x[i + l] : -HUGE_VALF;
    sum = Add(sum, ExpLanes(Add(LoadLanes(rest), negative_max)));
  }
  return TreeSum(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(MaxIgnoringNan);
HWY_EXPORT(ArgMax);
HWY_EXPORT(SumExp);

namespace {

// Natural logarithm of a normal positive number in double precision, to about 1e-13: only the
// basic operations, whose results are the same everywhere.
//   x = 2^k m, m in [sqrt(1/2), sqrt(2));  ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716;
// the series' first dropped term is 2 s^17 / 17 < 2e-14.
double Log(double x) {
  uint64_t bits = std::bit_cast<uint64_t>(x);
  int k = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++k;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double series = 0.0;
  for (int n = 15; n >= 1; n -= 2) series = series * s2 + 1.0 / n;
  return k * 0.69314718055994531 + 2.0 * s * series;
}

}  // namespace

float LogSumExp(const float* x, size_t n) {
  const float max = HWY_DYNAMIC_DISPATCH(MaxIgnoringNan)(x, n);
  if (std::isinf(max)) return max;
  const float sum = HWY_DYNAMIC_DISPATCH(SumExp)(x, n, max);
  if (!std::isfinite(sum)) return sum;  // a NaN among the values
  return static_cast<float>(static_cast<double>(max) + Log(sum));
}

size_t ArgMax(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(ArgMax)(x, n); }

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
