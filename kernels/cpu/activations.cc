#include <cstring>

#include "kernels/cpu/linear.h"

#ifndef QUANTLOOM_KERNELS_CPU_ACTIVATIONS_ONCE
#define QUANTLOOM_KERNELS_CPU_ACTIVATIONS_ONCE
namespace quantloom::cpu {

// Where a row of codes is written.
struct CodeRow {
  uint8_t* groups;
  float* total;
};

}  // namespace quantloom::cpu
#endif  // QUANTLOOM_KERNELS_CPU_ACTIVATIONS_ONCE

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
// What a block's largest absolute value may become: the first of those that leave least. Three
// leave a sixth less than one (Gaussian values, sum of squares; four a fifth) and cost no
// measurable time.
constexpr float kTops[] = {127.0f, 126.0f, 125.0f};
// Steps of a second row of codes in one of the first: half a step, what is left at most, is 127.
constexpr float kRestSteps = 254.0f;

// A group's blocks.
struct Blocks {
  HWY_ALIGN int32_t maxima[kLanes];  // bits of the largest absolute value
  HWY_ALIGN float tops[kLanes];      // what that becomes
};

// max / top for each block; 0 below 2^-118, where the inverse would overflow; NaN for infinity and
// NaN.
void BlockScales(const Blocks& blocks, float* scales) {
  const hn::RebindToSigned<LaneTag> di;
  for (size_t l = 0; l < kLanes; l += kVecLanes) {
    const auto bits = hn::Load(di, blocks.maxima + l);
    const auto max = hn::BitCast(LaneTag(), bits);
    const auto finite = hn::RebindMask(LaneTag(), hn::Lt(bits, hn::Set(di, kInfinityBits)));
    const auto usable = hn::Ge(max, hn::Set(LaneTag(), kSmallestMax));
    const auto scale =
        hn::IfThenElseZero(usable, hn::Div(max, hn::Load(LaneTag(), blocks.tops + l)));
    hn::StoreU(hn::IfThenElse(finite, scale, hn::Sub(max, max)), LaneTag(), scales + l);
  }
}

// kTops[0] / max for each block, 0 where the scale is 0 or NaN.
template <class V>
HWY_INLINE V Inverses(V max) {
  const auto usable = hn::And(hn::Ge(max, hn::Set(LaneTag(), kSmallestMax)),
                              hn::Lt(max, hn::Set(LaneTag(), HUGE_VALF)));
  return hn::IfThenElseZero(usable, hn::Div(hn::Set(LaneTag(), kTops[0]), max));
}

// x rounded to the nearest integer, ties to even; |x| <= 127 but for rounding errors far below one
// half. Adding 1.5 * 2^23 leaves the integer in the sum's low bits.
constexpr float kRounding = 0x1.8p23f;

template <class V>
HWY_INLINE V RoundVector(V x) {
  const auto magic = hn::Set(LaneTag(), kRounding);
  return hn::Sub(hn::Add(x, magic), magic);
}

// The same, and as int8.
template <class V>
HWY_INLINE V RoundVector(V x, int8_t* codes) {
  const hn::RebindToSigned<LaneTag> di;
  const hn::Rebind<int8_t, LaneTag> d8;
  const auto magic = hn::Set(LaneTag(), kRounding);
  const auto rounded = hn::Add(x, magic);
  const auto code = hn::Sub(hn::BitCast(di, rounded), hn::BitCast(di, magic));
  hn::StoreU(hn::DemoteTo(d8, code), d8, codes);
  return hn::Sub(rounded, magic);
}

// The square of what rounding x * inverse leaves.
template <class V>
HWY_INLINE V SquaredRest(V x, V inverse) {
  const auto scaled = hn::Mul(x, inverse);
  const auto left = hn::Sub(scaled, RoundVector(scaled));
  return hn::Mul(left, left);
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

// One of a quad's lanes with the others, in all of them. With one lane a vector, vectors are the
// quad.
#if HWY_TARGET == HWY_SCALAR
constexpr size_t kQuadVectors = 4;
#else
constexpr size_t kQuadVectors = 1;
#endif

template <class V, class Join>
HWY_INLINE V JoinQuad(const V (&lanes)[kQuadVectors], const Join& join) {
#if HWY_TARGET == HWY_SCALAR
  return join(join(lanes[0], lanes[1]), join(lanes[2], lanes[3]));
#else
  const V pairs = join(lanes[0], hn::Shuffle2301(lanes[0]));
  return join(pairs, hn::Shuffle1032(pairs));
#endif
}

// Columns c, c + 1, .. c + max(4, vector's lanes) - 1 of each of a group's steps: their codes, and
// their blocks.
template <ActivationForm kForm>
HWY_INLINE void QuantizeColumns(const float* x, size_t steps, size_t c, int8_t* codes, int8_t* rest,
                                Blocks& blocks) {
  using V = hn::Vec<LaneTag>;
  const LaneTag d;
  const hn::RebindToSigned<LaneTag> di;
  hn::Vec<decltype(di)> maxima[kQuadVectors];
  for (size_t v = 0; v < kQuadVectors; ++v) {
    maxima[v] = hn::Zero(di);
    for (size_t s = 0; s < steps; ++s) {
      const auto bits = hn::BitCast(di, hn::LoadU(d, x + s * kStep + c + v));
      maxima[v] = hn::Max(maxima[v], hn::And(bits, hn::Set(di, kAbsMask)));
    }
  }
  const auto max = JoinQuad(maxima, [](auto a, auto b) HWY_ATTR { return hn::Max(a, b); });

  const V first = Inverses(hn::BitCast(d, max));
  V inverse = first, top = hn::Set(d, kTops[0]), least = hn::Set(d, HUGE_VALF);
  for (const float candidate : kTops) {
    const V by = hn::Mul(first, hn::Set(d, candidate / kTops[0]));
    V left[kQuadVectors];
    for (size_t v = 0; v < kQuadVectors; ++v) {
      left[v] = hn::Zero(d);
      for (size_t s = 0; s < steps; ++s) {
        left[v] = hn::Add(left[v], SquaredRest(hn::LoadU(d, x + s * kStep + c + v), by));
      }
    }
    const V sum = JoinQuad(left, [](V a, V b) HWY_ATTR { return hn::Add(a, b); });
    const V error = hn::Mul(sum, hn::Set(d, 1 / (candidate * candidate)));
    const auto better = hn::Lt(error, least);
    least = hn::IfThenElse(better, error, least);
    inverse = hn::IfThenElse(better, by, inverse);
    top = hn::IfThenElse(better, hn::Set(d, candidate), top);
  }
  for (size_t v = 0; v < kQuadVectors; ++v) {
    for (size_t s = 0; s < steps; ++s) {
      const size_t column = s * kStep + c + v;
      QuantizeVector<kForm>(hn::LoadU(d, x + column), inverse, codes + column, rest + column);
    }
  }

  HWY_ALIGN int32_t quad_maxima[kVecLanes];
  HWY_ALIGN float quad_tops[kVecLanes];
  hn::Store(max, di, quad_maxima);
  hn::Store(top, d, quad_tops);
  for (size_t j = 0; j < kVecLanes; j += 4) {
    blocks.maxima[(c + j) / 4] = quad_maxima[j];
    blocks.tops[(c + j) / 4] = quad_tops[j];
  }
}

// Biases of a group of `steps` steps; returns `total` and what it adds to the row's total.
template <size_t kSteps>
HWY_INLINE Lanes AddGroup(Activations::Group<kSteps>& group, size_t steps, const Lanes& total) {
  Sums16 sums = ZeroSums();
  for (size_t s = 0; s < steps; ++s) sums = AddQuads(sums, LoadBytes(group.codes + s * kStep));
  StoreSums(sums, group.biases);
  for (int32_t& bias : group.biases) bias *= -128;
  return Fma(LoadLanes(group.scales), ToFloat(sums), total);
}

template <ActivationForm kForm>
HWY_INLINE void QuantizeRowAs(const float* x, size_t cols, const CodeRow& row,
                              const CodeRow& rest) {
  constexpr size_t kSteps =
      kForm == ActivationForm::kInt8Wide ? Activations::kWideGroupSteps : Activations::kGroupSteps;
  constexpr size_t kGroupCols = kSteps * kStep;
  using Group = Activations::Group<kSteps>;
  Lanes total = Splat(0.0f), rest_total = Splat(0.0f);
  for (size_t c = 0; c < cols; c += kGroupCols) {
    const size_t group_cols = HWY_MIN(kGroupCols, cols - c);
    const size_t steps = (group_cols + kStep - 1) / kStep;
    const float* values = x + c;
    HWY_ALIGN float padded[kGroupCols];
    if (group_cols % kStep != 0) {
      memcpy(padded, values, group_cols * sizeof(float));
      memset(padded + group_cols, 0, (steps * kStep - group_cols) * sizeof(float));
      values = padded;
    }
    Group& group = reinterpret_cast<Group*>(row.groups)[c / kGroupCols];
    Group& rest_group = reinterpret_cast<Group*>(rest.groups)[c / kGroupCols];
    Blocks blocks;
    for (size_t i = 0; i < kStep; i += HWY_MAX(kVecLanes, size_t{4})) {
      QuantizeColumns<kForm>(values, steps, i, group.codes, rest_group.codes, blocks);
    }
    BlockScales(blocks, group.scales);
    total = AddGroup(group, steps, total);
    if constexpr (kForm == ActivationForm::kInt16) {
      for (size_t l = 0; l < kLanes; ++l) {
        rest_group.scales[l] = group.scales[l] * (1.0f / kRestSteps);
      }
      rest_total = AddGroup(rest_group, steps, rest_total);
    }
  }
  *row.total = TreeSum(total);
  if constexpr (kForm == ActivationForm::kInt16) *rest.total = TreeSum(rest_total);
}

// The codes of one row of activations, and with kInt16 of what those leave.
void QuantizeRow(const float* x, size_t cols, ActivationForm form, const CodeRow& row,
                 const CodeRow& rest) {
  if (form == ActivationForm::kInt8Wide) {
    return QuantizeRowAs<ActivationForm::kInt8Wide>(x, cols, row, row);
  }
  if (form == ActivationForm::kInt8) {
    return QuantizeRowAs<ActivationForm::kInt8>(x, cols, row, row);
  }
  QuantizeRowAs<ActivationForm::kInt16>(x, cols, row, rest);
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
  values_.resize(form == ActivationForm::kFloat ? tokens * row_stride() : 0);
  codes_.resize(code_rows() * code_row_bytes());
  totals_.resize(code_rows());
}

void Activations::SetRow(size_t token, const float* x) {
  if (form_ == ActivationForm::kFloat) {
    float* to = values_.data() + token * row_stride();
    memcpy(to, x, cols_ * sizeof(float));
    memset(to + cols_, 0, (padded_cols_ - cols_) * sizeof(float));
    return;
  }
  const auto written = [&](size_t i) {
    return CodeRow{codes_.data() + i * code_row_bytes(), &totals_[i]};
  };
  const CodeRow row = written(token);
  const CodeRow rest = form_ == ActivationForm::kInt16 ? written(tokens_ + token) : row;
  HWY_DYNAMIC_DISPATCH(QuantizeRow)(x, cols_, form_, row, rest);
}

void Activations::Assign(const float* x, size_t tokens, size_t cols, size_t stride,
                         ActivationForm form) {
  Resize(tokens, cols, form);
  for (size_t t = 0; t < tokens; ++t) SetRow(t, x + t * stride);
}

}  // namespace quantloom::cpu
#endif  // HWY_ONCE
