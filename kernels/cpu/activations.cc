#include <cstring>

#include "kernels/cpu/linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activations.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/byte_product-inl.h"
#include "kernels/cpu/lanes-inl.h"

QUANTLOOM_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// Absolute values as integers: they order as the floats do, with infinity and NaN on top, and
// integer maxima have no special cases that differ between targets.
constexpr int32_t kAbsMask = 0x7FFFFFFF;
constexpr int32_t kInfinityBits = 0x7F800000;
constexpr float kSmallestMax = 0x1p-118f;  // 127 divided by less overflows

// Scales of 16 blocks whose largest absolute values have these bits: max / 127; 0 below 2^-118,
// where the inverse would overflow; NaN for infinity and NaN.
void BlockScales(const int32_t* maxima, float* scales) {
  const hn::RebindToSigned<LaneTag> di;
  for (size_t l = 0; l < kLanes; l += kVecLanes) {
    const auto bits = hn::Load(di, maxima + l);
    const auto max = hn::BitCast(LaneTag(), bits);
    const auto finite = hn::RebindMask(LaneTag(), hn::Lt(bits, hn::Set(di, kInfinityBits)));
    const auto usable = hn::Ge(max, hn::Set(LaneTag(), kSmallestMax));
    const auto scale = hn::IfThenElseZero(usable, hn::Div(max, hn::Set(LaneTag(), 127.0f)));
    hn::StoreU(hn::IfThenElse(finite, scale, hn::Sub(max, max)), LaneTag(), scales + l);
  }
}

// 127 / max for each block, 0 where the scale is 0 or NaN.
template <class V>
HWY_INLINE V Inverses(V max) {
  const auto usable = hn::And(hn::Ge(max, hn::Set(LaneTag(), kSmallestMax)),
                              hn::Lt(max, hn::Set(LaneTag(), HUGE_VALF)));
  return hn::IfThenElseZero(usable, hn::Div(hn::Set(LaneTag(), 127.0f), max));
}

// round(x * inverse) to nearest even, as int8; |x * inverse| <= 127 but for rounding errors far
// below one half. Adding 1.5 * 2^23 leaves the integer in the sum's low bits. A zero inverse gives
// zero, for infinity and NaN too.
template <class V>
HWY_INLINE void QuantizeVector(V x, V inverse, int8_t* codes) {
  const hn::RebindToSigned<LaneTag> di;
  const hn::Rebind<int8_t, LaneTag> d8;
  const auto magic = hn::Set(LaneTag(), 0x1.8p23f);
  const auto scaled = hn::Mul(x, inverse);
  const auto inside = hn::Lt(hn::Abs(scaled), hn::Set(LaneTag(), 127.5f));
  const auto rounded = hn::Add(hn::IfThenElseZero(inside, scaled), magic);
  const auto code = hn::Sub(hn::BitCast(di, rounded), hn::BitCast(di, magic));
  hn::StoreU(hn::DemoteTo(d8, code), d8, codes);
}

// Columns c, c + 1, .. c + max(4, vector's lanes) - 1 of each of a group's steps: their codes, and
// the bits of their quads' largest absolute values.
HWY_INLINE void QuantizeColumns(const float* x, size_t steps, size_t c, int8_t* codes,
                                int32_t* maxima) {
  const hn::RebindToSigned<LaneTag> di;
  const auto absolute = [&](size_t column) HWY_ATTR {
    return hn::And(hn::BitCast(di, hn::LoadU(LaneTag(), x + column)), hn::Set(di, kAbsMask));
  };
  auto max = hn::Zero(di);
#if HWY_TARGET == HWY_SCALAR
  for (size_t j = 0; j < 4; ++j) {
    for (size_t s = 0; s < steps; ++s) max = hn::Max(max, absolute(s * kStep + c + j));
  }
  maxima[c / 4] = hn::GetLane(max);
  const auto inverse = Inverses(hn::BitCast(LaneTag(), max));
  for (size_t j = 0; j < 4; ++j) {
    for (size_t s = 0; s < steps; ++s) {
      const size_t column = s * kStep + c + j;
      QuantizeVector(hn::LoadU(LaneTag(), x + column), inverse, codes + column);
    }
  }
#else
  for (size_t s = 0; s < steps; ++s) max = hn::Max(max, absolute(s * kStep + c));
  // Each quad's maximum in all of its four lanes.
  max = hn::Max(max, hn::Shuffle2301(max));
  max = hn::Max(max, hn::Shuffle1032(max));
  HWY_ALIGN int32_t quads[kVecLanes];
  hn::Store(max, di, quads);
  for (size_t j = 0; j < kVecLanes; j += 4) maxima[(c + j) / 4] = quads[j];
  const auto inverse = Inverses(hn::BitCast(LaneTag(), max));
  for (size_t s = 0; s < steps; ++s) {
    const size_t column = s * kStep + c;
    QuantizeVector(hn::LoadU(LaneTag(), x + column), inverse, codes + column);
  }
#endif
}

// One group of up to four steps: int8 codes, the blocks' scales and the sums of their codes.
Sums16 QuantizeGroup(const float* x, size_t steps, int8_t* codes, float* scales) {
  HWY_ALIGN int32_t maxima[kLanes];
  for (size_t c = 0; c < kStep; c += HWY_MAX(kVecLanes, size_t{4})) {
    QuantizeColumns(x, steps, c, codes, maxima);
  }
  BlockScales(maxima, scales);
  Sums16 sums = ZeroSums();
  for (size_t s = 0; s < steps; ++s) sums = AddQuads(sums, LoadBytes(codes + s * kStep));
  return sums;
}

// One row; returns its total.
float QuantizeRow(const float* x, size_t padded_cols, int8_t* codes, float* scales,
                  int32_t* biases) {
  Lanes total = Splat(0.0f);
  for (size_t c = 0; c < padded_cols; c += Activations::kGroupCols) {
    const size_t cols = HWY_MIN(Activations::kGroupCols, padded_cols - c);
    const Sums16 sums = QuantizeGroup(x + c, cols / kStep, codes + c, scales);
    total = Fma(LoadLanes(scales), ToFloat(sums), total);
    StoreSums(sums, biases);
    for (size_t l = 0; l < kLanes; ++l) biases[l] *= -128;
    scales += kLanes;
    biases += kLanes;
  }
  return TreeSum(total);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(QuantizeRow);

void Activations::Resize(size_t tokens, size_t cols, bool quantize) {
  tokens_ = tokens;
  cols_ = cols;
  padded_cols_ = (cols + kStepCols - 1) / kStepCols * kStepCols;
  quantized_ = quantize;
  values_.resize(tokens * padded_cols_);
  if (!quantize) return;
  codes_.resize(tokens * padded_cols_);
  scales_.resize(tokens * groups() * 16);
  biases_.resize(tokens * groups() * 16);
  totals_.resize(tokens);
}

void Activations::SetRow(size_t token, const float* x) {
  float* to = values_.data() + token * padded_cols_;
  memcpy(to, x, cols_ * sizeof(float));
  memset(to + cols_, 0, (padded_cols_ - cols_) * sizeof(float));
  if (!quantized_) return;
  totals_[token] = HWY_DYNAMIC_DISPATCH(QuantizeRow)(
      to, padded_cols_, codes_.data() + token * padded_cols_,
      scales_.data() + token * groups() * 16, biases_.data() + token * groups() * 16);
}

void Activations::Assign(const float* x, size_t tokens, size_t cols, size_t stride, bool quantize) {
  Resize(tokens, cols, quantize);
  for (size_t t = 0; t < tokens; ++t) SetRow(t, x + t * stride);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
