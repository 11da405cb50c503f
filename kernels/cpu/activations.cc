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
// Steps of a second row of codes in one of the first: half a step, what is left at most, is 127.
constexpr float kRestSteps = 254.0f;

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

// x rounded to the nearest integer, ties to even, as float and as int8; |x| <= 127 but for rounding
// errors far below one half. Adding 1.5 * 2^23 leaves the integer in the sum's low bits.
template <class V>
HWY_INLINE V RoundVector(V x, int8_t* codes) {
  const hn::RebindToSigned<LaneTag> di;
  const hn::Rebind<int8_t, LaneTag> d8;
  const auto magic = hn::Set(LaneTag(), 0x1.8p23f);
  const auto rounded = hn::Add(x, magic);
  const auto code = hn::Sub(hn::BitCast(di, rounded), hn::BitCast(di, magic));
  hn::StoreU(hn::DemoteTo(d8, code), d8, codes);
  return hn::Sub(rounded, magic);
}

// round(x * inverse), and with kInt16 round(254 * what that leaves). A zero inverse gives zero, for
// infinity and NaN too.
template <ActivationForm kForm, class V>
HWY_INLINE void QuantizeVector(V x, V inverse, int8_t* codes, int8_t* rest) {
  const auto scaled = hn::Mul(x, inverse);
  const auto inside = hn::Lt(hn::Abs(scaled), hn::Set(LaneTag(), 127.5f));
  const auto finite = hn::IfThenElseZero(inside, scaled);
  const auto rounded = RoundVector(finite, codes);
  if constexpr (kForm == ActivationForm::kInt16) {
    const auto left = hn::Sub(finite, rounded);
    RoundVector(hn::Mul(left, hn::Set(LaneTag(), kRestSteps)), rest);
  }
}

// Columns c, c + 1, .. c + max(4, vector's lanes) - 1 of each of a group's steps: their codes, and
// the bits of their quads' largest absolute values.
template <ActivationForm kForm>
HWY_INLINE void QuantizeColumns(const float* x, size_t steps, size_t c, int8_t* codes, int8_t* rest,
                                int32_t* maxima) {
  const hn::RebindToSigned<LaneTag> di;
  const auto absolute = [&](size_t column) HWY_ATTR {
    return hn::And(hn::BitCast(di, hn::LoadU(LaneTag(), x + column)), hn::Set(di, kAbsMask));
  };
  const auto quantize = [&](size_t column, auto inverse) HWY_ATTR {
    QuantizeVector<kForm>(hn::LoadU(LaneTag(), x + column), inverse, codes + column, rest + column);
  };
  auto max = hn::Zero(di);
#if HWY_TARGET == HWY_SCALAR
  for (size_t j = 0; j < 4; ++j) {
    for (size_t s = 0; s < steps; ++s) max = hn::Max(max, absolute(s * kStep + c + j));
  }
  maxima[c / 4] = hn::GetLane(max);
  const auto inverse = Inverses(hn::BitCast(LaneTag(), max));
  for (size_t j = 0; j < 4; ++j) {
    for (size_t s = 0; s < steps; ++s) quantize(s * kStep + c + j, inverse);
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
  for (size_t s = 0; s < steps; ++s) quantize(s * kStep + c, inverse);
#endif
}

// The sums of a group's codes, from which follow its biases and what it adds to the row's total.
HWY_INLINE Lanes AddGroup(const Activations::CodeRow& row, size_t c, size_t steps,
                          const Lanes& total) {
  const size_t group = c / Activations::kGroupCols * kLanes;
  Sums16 sums = ZeroSums();
  for (size_t s = 0; s < steps; ++s) sums = AddQuads(sums, LoadBytes(row.codes + c + s * kStep));
  StoreSums(sums, row.biases + group);
  for (size_t l = 0; l < kLanes; ++l) row.biases[group + l] *= -128;
  return Fma(LoadLanes(row.scales + group), ToFloat(sums), total);
}

template <ActivationForm kForm>
HWY_INLINE void QuantizeRowAs(const float* x, size_t padded_cols, const Activations::CodeRow& row,
                              const Activations::CodeRow& rest) {
  Lanes total = Splat(0.0f), rest_total = Splat(0.0f);
  for (size_t c = 0; c < padded_cols; c += Activations::kGroupCols) {
    const size_t steps = HWY_MIN(Activations::kGroupCols, padded_cols - c) / kStep;
    HWY_ALIGN int32_t maxima[kLanes];
    for (size_t i = c; i < c + kStep; i += HWY_MAX(kVecLanes, size_t{4})) {
      QuantizeColumns<kForm>(x + c, steps, i - c, row.codes + c, rest.codes + c, maxima);
    }
    float* scales = row.scales + c / Activations::kGroupCols * kLanes;
    BlockScales(maxima, scales);
    total = AddGroup(row, c, steps, total);
    if constexpr (kForm == ActivationForm::kInt16) {
      float* rest_scales = rest.scales + c / Activations::kGroupCols * kLanes;
      for (size_t l = 0; l < kLanes; ++l) rest_scales[l] = scales[l] * (1.0f / kRestSteps);
      rest_total = AddGroup(rest, c, steps, rest_total);
    }
  }
  *row.total = TreeSum(total);
  if constexpr (kForm == ActivationForm::kInt16) *rest.total = TreeSum(rest_total);
}

// The codes of one row of activations; with kInt16 two of them.
void QuantizeRow(const float* x, size_t padded_cols, const Activations::CodeRow& row,
                 const Activations::CodeRow* rest) {
  if (rest == nullptr) {
    return QuantizeRowAs<ActivationForm::kInt8>(x, padded_cols, row, row);
  }
  QuantizeRowAs<ActivationForm::kInt16>(x, padded_cols, row, *rest);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom::cpu {

HWY_EXPORT(QuantizeRow);

void Activations::Resize(size_t tokens, size_t cols, ActivationForm form) {
  tokens_ = tokens;
  cols_ = cols;
  padded_cols_ = (cols + kStepCols - 1) / kStepCols * kStepCols;
  form_ = form;
  values_.resize(tokens * row_stride());
  codes_.resize(code_rows() * code_stride());
  scales_.resize(code_rows() * group_stride());
  biases_.resize(code_rows() * group_stride());
  totals_.resize(code_rows());
}

void Activations::SetRow(size_t token, const float* x) {
  float* to = values_.data() + token * row_stride();
  memcpy(to, x, cols_ * sizeof(float));
  memset(to + cols_, 0, (padded_cols_ - cols_) * sizeof(float));
  const auto code_row = [&](size_t i) {
    return CodeRow{codes_.data() + i * code_stride(), scales_.data() + i * group_stride(),
                   biases_.data() + i * group_stride(), &totals_[i]};
  };
  if (form_ == ActivationForm::kFloat) return;
  const Activations::CodeRow row = code_row(token);
  if (form_ == ActivationForm::kInt8) {
    return HWY_DYNAMIC_DISPATCH(QuantizeRow)(to, padded_cols_, row, nullptr);
  }
  const Activations::CodeRow rest = code_row(tokens_ + token);
  HWY_DYNAMIC_DISPATCH(QuantizeRow)(to, padded_cols_, row, &rest);
}

void Activations::Assign(const float* x, size_t tokens, size_t cols, size_t stride,
                         ActivationForm form) {
  Resize(tokens, cols, form);
  for (size_t t = 0; t < tokens; ++t) SetRow(t, x + t * stride);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
