#include <cstring>

#include "kernels/cpu/linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activations.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom::cpu {
namespace HWY_NAMESPACE {

// Absolute values as integers: they order as the floats do, with infinity and NaN on top, and
// integer maxima have no special cases that differ between targets.
constexpr int32_t kAbsMask = 0x7FFFFFFF;
constexpr int32_t kInfinityBits = 0x7F800000;

// The largest absolute value's bits of each quad of columns over the group's steps: quads[l].
void GroupMaxima(const float* x, size_t steps, int32_t* quads) {
  const hn::RebindToSigned<LaneTag> di;
  HWY_ALIGN int32_t maxima[Activations::kStepCols];
  for (size_t c = 0; c < Activations::kStepCols; c += kVecLanes) {
    auto max = hn::Zero(di);
    for (size_t s = 0; s < steps; ++s) {
      const auto v = hn::LoadU(LaneTag(), x + s * Activations::kStepCols + c);
      max = hn::Max(max, hn::And(hn::BitCast(di, v), hn::Set(di, kAbsMask)));
    }
    hn::Store(max, di, maxima + c);
  }
  for (size_t l = 0; l < kLanes; ++l) {
    const int32_t* quad = maxima + 4 * l;
    quads[l] = HWY_MAX(HWY_MAX(quad[0], quad[1]), HWY_MAX(quad[2], quad[3]));
  }
}

// codes = round(x * inverse) to nearest even; |x * inverse| <= 127 but for rounding errors far
// below one half. Adding 1.5 * 2^23 leaves the integer in the sum's low bits. A zero inverse stands
// for a block with NaN or infinity: the products with it that are not zero become zero here.
void QuantizeStep(const float* x, const float* inverses, int8_t* codes) {
  const hn::RebindToSigned<LaneTag> di;
  const hn::Rebind<int8_t, LaneTag> d8;
  const auto magic = hn::Set(LaneTag(), 0x1.8p23f);
  const auto limit = hn::Set(LaneTag(), 127.5f);
  for (size_t c = 0; c < Activations::kStepCols; c += kVecLanes) {
    auto v = hn::Mul(hn::LoadU(LaneTag(), x + c), hn::LoadU(LaneTag(), inverses + c));
    v = hn::IfThenElseZero(hn::Lt(hn::Abs(v), limit), v);
    const auto rounded = hn::BitCast(di, hn::Add(v, magic));
    const auto code = hn::Sub(rounded, hn::BitCast(di, magic));
    hn::StoreU(hn::DemoteTo(d8, code), d8, codes + c);
  }
}

// One group of up to four steps: int8 codes, the blocks' scales and -128 * sums.
void QuantizeGroup(const float* x, size_t steps, int8_t* codes, float* scales, int32_t* biases) {
  HWY_ALIGN int32_t maxima[kLanes];
  HWY_ALIGN float inverses[Activations::kStepCols];
  GroupMaxima(x, steps, maxima);
  for (size_t l = 0; l < kLanes; ++l) {
    float max;
    memcpy(&max, &maxima[l], sizeof(max));
    // Below 2^-118 the inverse would overflow: such a block is as good as zero.
    const bool usable = max >= 0x1p-118f && maxima[l] < kInfinityBits;
    const float inverse = usable ? 127.0f / max : 0.0f;
    scales[l] = usable ? max / 127.0f : (maxima[l] < kInfinityBits ? 0.0f : max - max);
    for (size_t j = 0; j < 4; ++j) inverses[4 * l + j] = inverse;
    biases[l] = 0;
  }
  for (size_t s = 0; s < steps; ++s) {
    int8_t* step = codes + s * Activations::kStepCols;
    QuantizeStep(x + s * Activations::kStepCols, inverses, step);
    for (size_t l = 0; l < kLanes; ++l) {
      biases[l] -= 128 * (step[4 * l] + step[4 * l + 1] + step[4 * l + 2] + step[4 * l + 3]);
    }
  }
}

// One row; returns its total.
float QuantizeRow(const float* x, size_t padded_cols, int8_t* codes, float* scales,
                  int32_t* biases) {
  Lanes total = Splat(0.0f);
  for (size_t c = 0; c < padded_cols; c += Activations::kGroupCols) {
    const size_t cols = HWY_MIN(Activations::kGroupCols, padded_cols - c);
    QuantizeGroup(x + c, cols / Activations::kStepCols, codes + c, scales, biases);
    HWY_ALIGN float sums[kLanes];
    for (size_t l = 0; l < kLanes; ++l) sums[l] = static_cast<float>(biases[l] / -128);
    total = Fma(LoadLanes(scales), LoadLanes(sums), total);
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
