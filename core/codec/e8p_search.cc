#include "core/codec/e8p_search.h"

#include "core/codec/e8p_split.h"
#include "core/codec/e8p_table.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/codec/e8p_search.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Each lane is a vector to encode, so no sum crosses lanes; products and sums are rounded apart.
using Tag = hn::CappedTag<float, 16>;
using Vec = hn::Vec<Tag>;
using Mask = hn::Mask<Tag>;
constexpr size_t kLanes = hn::MaxLanes(Tag());

// A value per term and coordinate.
template <int kTerms>
struct Terms {
  Vec v[kTerms][kE8Dimensions];
};

// Per half of `split`: coordinates `first` to `first` + 3 combined as combine(combine(0, 1),
// combine(2, 3)).
template <int kTerms, class Combine>
HWY_INLINE void CombineHalves(const SplitTable& split, const Terms<kTerms>& terms, int first,
                              Combine combine, Vec* out) {
  for (int h = 0; h < split.count; ++h) {
    const int8_t* half = split.half[h];
    out[h] = combine(combine(terms.v[half[0]][first], terms.v[half[1]][first + 1]),
                     combine(terms.v[half[2]][first + 2], terms.v[half[3]][first + 3]));
  }
}

HWY_INLINE Vec Sum(Vec a, Vec b) { return hn::Add(a, b); }
HWY_INLINE Vec Least(Vec a, Vec b) { return hn::Min(a, b); }

struct Best {
  Vec score, index;
};

HWY_INLINE void Consider(Vec score, int entry, Best& best) {
  const Mask better = hn::Gt(score, best.score);
  best.score = hn::IfThenElse(better, score, best.score);
  best.index = hn::IfThenElse(better, hn::Set(Tag(), static_cast<float>(entry)), best.index);
}

// The best entry for x - shift = y. Score, to be maximized: sum of w (2 a |y| - a^2) over the
// coordinates, which is the weighted |y|^2 less the squared distance when every sign agrees with
// y's; where those signs have the wrong parity, less 4 min w a |y|, the cost of the cheapest flip.
HWY_INLINE Best SearchShift(const float* x, const float* w, float shift) {
  const Tag d;
  const hn::RebindToSigned<Tag> di;
  Terms<kMagnitudeTerms> gains, flips;
  auto signs = hn::Zero(di);
  for (int i = 0; i < kE8Dimensions; ++i) {
    const Vec y = hn::Sub(hn::Load(d, x + i * kE8SearchRows), hn::Set(d, shift));
    const Vec weight = hn::Load(d, w + i * kE8SearchRows);
    signs = hn::Xor(signs, hn::BitCast(di, y));
    const Vec magnitude = hn::Abs(y);
    for (int m = 0; m < kMagnitudeTerms; ++m) {
      const float a = 0.5f + static_cast<float>(m);
      const Vec product = hn::Mul(magnitude, hn::Set(d, 2 * a));
      gains.v[m][i] = hn::Mul(weight, hn::Sub(product, hn::Set(d, a * a)));
      flips.v[m][i] = hn::Mul(weight, hn::Add(product, product));
    }
  }
  const Mask odd_signs = hn::RebindMask(d, hn::Lt(signs, hn::Zero(di)));
  // Entries with an even sum of magnitudes, [0], want an even number of minus signs.
  const Mask mismatch[2] = {odd_signs, hn::Not(odd_signs)};

  Vec low_gain[SplitTable::kMostHalves], high_gain[SplitTable::kMostHalves];
  Vec low_flip[SplitTable::kMostHalves], high_flip[SplitTable::kMostHalves];
  CombineHalves(kE8pSplit, gains, 0, Sum, low_gain);
  CombineHalves(kE8pSplit, gains, 4, Sum, high_gain);
  CombineHalves(kE8pSplit, flips, 0, Least, low_flip);
  CombineHalves(kE8pSplit, flips, 4, Least, high_flip);

  Best best = {hn::Set(d, -3e38f), hn::Zero(d)};
  for (int e = 0; e < 256; ++e) {
    const int low = kE8pSplit.low[e], high = kE8pSplit.high[e];
    const Vec flip = hn::Min(low_flip[low], high_flip[high]);
    const bool odd = kE8pTable.entry[e][0] < 0;
    Consider(
        hn::Sub(hn::Add(low_gain[low], high_gain[high]), hn::IfThenElseZero(mismatch[odd], flip)),
        e, best);
  }
  return best;
}

void NearestE8p(const float* targets, const float* weights, float* index, float* shift) {
  const Tag d;
  for (size_t r = 0; r < kE8SearchRows; r += kLanes) {
    const Best down = SearchShift(targets + r, weights + r, -kE8pUnit);
    const Best up = SearchShift(targets + r, weights + r, kE8pUnit);
    // Scores are relative to |x - shift|^2, whose difference between the shifts is 4 * 1/4 * sum w
    // x.
    Vec sum = hn::Zero(d);
    for (int i = 0; i < kE8Dimensions; ++i) {
      sum = hn::Add(sum, hn::Mul(hn::Load(d, weights + i * kE8SearchRows + r),
                                 hn::Load(d, targets + i * kE8SearchRows + r)));
    }
    const Mask is_up = hn::Gt(hn::Add(up.score, sum), down.score);
    hn::Store(hn::IfThenElse(is_up, up.index, down.index), d, index + r);
    hn::Store(hn::IfThenElse(is_up, hn::Set(d, kE8pUnit), hn::Set(d, -kE8pUnit)), d, shift + r);
  }
}

// Score: sum of w (2 x c - c^2), the weighted |x|^2 less the squared distance.
void NearestOneBit(const float* targets, const float* weights, float* index) {
  const Tag d;
  for (size_t r = 0; r < kE8SearchRows; r += kLanes) {
    Terms<kValueTerms> gains;
    for (int i = 0; i < kE8Dimensions; ++i) {
      const Vec x = hn::Load(d, targets + i * kE8SearchRows + r);
      const Vec weight = hn::Load(d, weights + i * kE8SearchRows + r);
      for (int t = 0; t < kValueTerms; ++t) {
        const float c = 0.5f * static_cast<float>(t - 4);
        gains.v[t][i] = hn::Mul(weight, hn::Sub(hn::Mul(x, hn::Set(d, 2 * c)), hn::Set(d, c * c)));
      }
    }
    Vec low[SplitTable::kMostHalves], high[SplitTable::kMostHalves];
    CombineHalves(kOneBitSplit, gains, 0, Sum, low);
    CombineHalves(kOneBitSplit, gains, 4, Sum, high);
    Best best = {hn::Set(d, -3e38f), hn::Zero(d)};
    for (int e = 0; e < 256; ++e) {
      Consider(hn::Add(low[kOneBitSplit.low[e]], high[kOneBitSplit.high[e]]), e, best);
    }
    hn::Store(best.index, d, index + r);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom {

HWY_EXPORT(NearestE8p);
HWY_EXPORT(NearestOneBit);

void SearchE8p(const float* targets, const float* weights, float* index, float* shift) {
  HWY_DYNAMIC_DISPATCH(NearestE8p)(targets, weights, index, shift);
}

void SearchE8OneBit(const float* targets, const float* weights, float* index) {
  HWY_DYNAMIC_DISPATCH(NearestOneBit)(targets, weights, index);
}

}  // namespace quantloom
#endif  // HWY_ONCE
