#include "core/codec/trellis_viterbi.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/codec/trellis_viterbi.cc"
#include "hwy/foreach_target.h"
// Highway's headers follow foreach_target.h, which includes this file once per target.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantloom {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using MetricTag = hn::CappedTag<uint16_t, kViterbiBlock>;
using ValueTag = hn::RebindToSigned<MetricTag>;
using Metrics = hn::Vec<MetricTag>;
constexpr size_t kLanes = hn::MaxLanes(MetricTag());
constexpr size_t kVecs = kViterbiBlock / kLanes;  // vectors per block

#if HWY_TARGET != HWY_SCALAR
// Bytes of the 16-bit lanes 0, 0, .., 1, 1, .., each 2^kIn times.
template <int kIn>
struct RepeatBytes {
  constexpr RepeatBytes() : bytes() {
    for (size_t i = 0; i < kLanes * 2; ++i) {
      bytes[i] = static_cast<uint8_t>((i / 2 >> kIn) * 2 + i % 2);
    }
  }
  alignas(64) uint8_t bytes[kLanes * 2];
};
#endif

// Metrics from[s >> kIn] of kLanes consecutive states, the first of them a multiple of kLanes.
template <int kIn>
HWY_INLINE Metrics Spread(const uint16_t* from, size_t state) {
  const MetricTag d;
  const uint16_t* first = from + (state >> kIn);
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kIn == 1) {
    // Zero-extended to 32 bits and copied into the upper half.
    const hn::RepartitionToWide<MetricTag> dw;
    const auto wide = hn::PromoteTo(dw, hn::LoadU(hn::Half<MetricTag>(), first));
    return hn::BitCast(d, hn::Or(wide, hn::ShiftLeft<16>(wide)));
  } else if constexpr (kLanes >> kIn > 1) {
    static_assert(kLanes >> kIn <= 8, "within the 16 bytes that are loaded");
    static constexpr RepeatBytes<kIn> repeat;
    const hn::Repartition<uint8_t, MetricTag> d8;
    const auto metrics = hn::BitCast(d8, hn::LoadDup128(d, first));
    return hn::BitCast(d, hn::TableLookupBytes(metrics, hn::Load(d8, repeat.bytes)));
  }
#endif
  return hn::Set(d, *first);
}

// Squared errors of kLanes values.
template <int kPrecision>
HWY_INLINE Metrics SquaredError(hn::Vec<ValueTag> target, const int16_t* values) {
  auto difference = hn::SaturatedSub(target, hn::Load(ValueTag(), values));
  for (int i = 1; i < kPrecision; ++i) difference = hn::SaturatedAdd(difference, difference);
  return hn::BitCast(MetricTag(), hn::MulHigh(difference, difference));
}

// The step for fixed bit counts. Choices of 16 / ChoiceBits blocks share a word, the first block's
// in its highest bits.
template <int kIn, int kOut, int kComponents, bool kTraced>
uint16_t FixedStep(const ViterbiStep& step) {
  constexpr size_t kBranches = size_t{1} << kOut;
  constexpr size_t kBlocks = SurvivorCount(kOut) / kViterbiBlock;
  constexpr size_t kBlocksPerWord = 16 / ChoiceBits(kOut);
  static_assert(kBlocks % kBlocksPerWord == 0, "no word is shared with another step");
  constexpr int kPrecision = ErrorPrecision(kIn, kOut, kComponents);
  const MetricTag d;
  const auto target0 = hn::Set(ValueTag(), step.targets[0]);
  const auto target1 = hn::Set(ValueTag(), step.targets[1]);
  const int16_t* HWY_RESTRICT values0 = step.values[0];
  const int16_t* HWY_RESTRICT values1 = step.values[1];
  const uint16_t* HWY_RESTRICT from = step.from;
  uint16_t* HWY_RESTRICT to = step.to;
  uint16_t* HWY_RESTRICT choices = step.choices;
  auto least = hn::Set(d, kUnreachable);
  for (size_t block = 0; block < kBlocks;) {
    Metrics words[kVecs];
    for (size_t v = 0; v < kVecs; ++v) words[v] = hn::Zero(d);
    for (size_t j = 0; j < kBlocksPerWord; ++j, ++block) {
      for (size_t v = 0; v < kVecs; ++v) {
        const size_t r = block * kViterbiBlock + v * kLanes;
        const size_t stream = block * kViterbiBlock * kBranches + v * kLanes;
        const auto branch = [&](size_t x) HWY_ATTR {
          auto metric = hn::SaturatedAdd(
              Spread<kIn>(from, (x << (kTrellisStateBits - kOut)) + r),
              SquaredError<kPrecision>(target0, values0 + stream + x * kViterbiBlock));
          if constexpr (kComponents == 2) {
            metric = hn::SaturatedAdd(
                metric, SquaredError<kPrecision>(target1, values1 + stream + x * kViterbiBlock));
          }
          return metric;
        };
        auto best = branch(0);
        auto choice = hn::Zero(d);
        HWY_UNROLL(4)
        for (size_t x = 1; x < kBranches; ++x) {
          const auto previous = best;
          best = hn::Min(best, branch(x));
          if constexpr (kTraced) {
            choice = hn::IfThenElse(hn::Eq(best, previous), choice,
                                    hn::Set(d, static_cast<uint16_t>(x)));
          }
        }
        hn::Store(best, d, to + r);
        least = hn::Min(least, best);
        if constexpr (kTraced) {
          words[v] = hn::Or(hn::ShiftLeft<ChoiceBits(kOut)>(words[v]), choice);
        }
      }
    }
    if constexpr (kTraced) {
      for (size_t v = 0; v < kVecs; ++v) hn::Store(words[v], d, choices + v * kLanes);
      choices += kViterbiBlock;
    }
  }
  HWY_ALIGN uint16_t lanes[kLanes];
  hn::Store(least, d, lanes);
  uint16_t result = kUnreachable;
  for (const uint16_t lane : lanes) result = lane < result ? lane : result;
  return result;
}

template <int kIn, int kOut, int kComponents>
uint16_t Step(const ViterbiStep& step) {
  return step.choices != nullptr ? FixedStep<kIn, kOut, kComponents, true>(step)
                                 : FixedStep<kIn, kOut, kComponents, false>(step);
}

uint16_t SelectStep(const ViterbiStep& step) {
  switch (step.components * 100 + step.in * 10 + step.out) {
    case 111:
      return Step<1, 1, 1>(step);
    case 112:
      return Step<1, 2, 1>(step);
    case 121:
      return Step<2, 1, 1>(step);
    case 122:
      return Step<2, 2, 1>(step);
    case 123:
      return Step<2, 3, 1>(step);
    case 132:
      return Step<3, 2, 1>(step);
    case 133:
      return Step<3, 3, 1>(step);
    case 134:
      return Step<3, 4, 1>(step);
    case 143:
      return Step<4, 3, 1>(step);
    case 144:
      return Step<4, 4, 1>(step);
    case 155:
      return Step<5, 5, 1>(step);
    case 166:
      return Step<6, 6, 1>(step);
    case 177:
      return Step<7, 7, 1>(step);
    case 188:
      return Step<8, 8, 1>(step);
    case 222:
      return Step<2, 2, 2>(step);
    case 233:
      return Step<3, 3, 2>(step);
    case 244:
      return Step<4, 4, 2>(step);
    case 255:
      return Step<5, 5, 2>(step);
    case 266:
      return Step<6, 6, 2>(step);
    case 277:
      return Step<7, 7, 2>(step);
    case 288:
      return Step<8, 8, 2>(step);
    default:
      return kUnreachable;
  }
}

void Lower(uint16_t* metrics, size_t count, uint16_t amount) {
  const MetricTag d;
  const auto unreachable = hn::Set(d, kUnreachable);
  const auto less = hn::Set(d, amount);
  for (size_t i = 0; i < count; i += kLanes) {
    const auto metric = hn::Load(d, metrics + i);
    hn::Store(hn::IfThenElse(hn::Eq(metric, unreachable), metric, hn::Sub(metric, less)), d,
              metrics + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantloom {

HWY_EXPORT(SelectStep);
HWY_EXPORT(Lower);

uint16_t RunViterbiStep(const ViterbiStep& step) { return HWY_DYNAMIC_DISPATCH(SelectStep)(step); }

void LowerMetrics(uint16_t* metrics, size_t count, uint16_t amount) {
  HWY_DYNAMIC_DISPATCH(Lower)(metrics, count, amount);
}

}  // namespace quantloom
#endif  // HWY_ONCE
