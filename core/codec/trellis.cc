#include "core/codec/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/codec/trellis_viterbi.h"
#include "hwy/aligned_allocator.h"

namespace quantloom {
namespace {

template <typename T>
using Aligned = hwy::AlignedFreeUniquePtr<T[]>;

// t: the minimum of the distortion over 2^15 weights, flat enough that another 0.01 changes it by
// less than 0.1 %. The best code for distortion D has variance 1 - D, which is t = 1 / sqrt(1 - D):
// 1.17 at 1 bit. At higher rates t is smaller, for the codebooks end near 3.4 times their root mean
// square and the tails beyond cost more.
struct Rate {
  int half_bits;
  float scale_factor[4];  // by code; 0 where the code does not have the rate
};
constexpr Rate kRates[] = {
    //    1MAD   MUL1   3INST  HYB
    {2, {1.16f, 1.13f, 1.15f, 1.17f}},      // 1 bit
    {3, {1.05f, 1.04f, 1.055f, 1.04f}},     // 1.5
    {4, {0.99f, 0.985f, 1.01f, 1.00f}},     // 2
    {5, {0.96f, 0.955f, 0.97f, 0.97f}},     // 2.5
    {6, {0.945f, 0.945f, 0.955f, 0.925f}},  // 3
    {7, {0.93f, 0.92f, 0.92f, 0.88f}},      // 3.5
    {8, {0.92f, 0.91f, 0.92f, 0.83f}},      // 4
    {10, {0.90f, 0.90f, 0.90f, 0}},         // 5
    {12, {0.85f, 0.85f, 0.85f, 0}},         // 6
    {14, {0.82f, 0.82f, 0.82f, 0}},         // 7
    {16, {0.80f, 0.80f, 0.80f, 0}},         // 8
};

// 0 for a rate that the code does not have.
float ScaleFactor(TrellisCode code, int half_bits) {
  for (const Rate& rate : kRates) {
    if (rate.half_bits == half_bits) return rate.scale_factor[static_cast<size_t>(code)];
  }
  return 0;
}

void PutBits(uint8_t* bits, int offset, int count, uint32_t value) {
  for (int i = 0; i < count; ++i) {
    bits[(offset + i) / 8] |= static_cast<uint8_t>(((value >> i) & 1) << ((offset + i) % 8));
  }
}

}  // namespace

absl::StatusOr<TrellisFormat> TrellisFormat::Create(TrellisCode code, int half_bits) {
  if (ScaleFactor(code, half_bits) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: ", half_bits / 2.0, " is not one of 1, 1.5, 2, 2.5, 3, 3.5, 4",
                     code == TrellisCode::kHyb ? "" : ", 5, 6, 7, 8"));
  }
  return TrellisFormat(code, half_bits);
}

float TrellisScaleFactor(const TrellisFormat& format) {
  return ScaleFactor(format.code(), format.half_bits());
}

void DecodeTile(const TrellisFormat& format, const uint8_t* bits, float* values) {
  // The ring with its beginning repeated behind its end, where the last states reach.
  constexpr size_t kMostBytes = kTileWeights;  // at 8 bits
  uint8_t ring[kMostBytes + sizeof(uint32_t)];
  const size_t bytes = format.tile_bytes();
  std::memcpy(ring, bits, bytes);
  std::memcpy(ring + bytes, bits, sizeof(uint32_t));
  const float* const codebook = TrellisCodebook(format.code());
  const auto weights = static_cast<size_t>(format.weights_per_step());
  for (int step = 0; step < format.steps(); ++step) {
    const auto offset = static_cast<size_t>(format.Offset(step));
    uint32_t window;
    std::memcpy(&window, ring + offset / 8, sizeof(window));
    const uint32_t state = window >> (offset % 8) & (kTrellisStates - 1);
    for (size_t i = 0; i < weights; ++i) values[i] = codebook[state * weights + i];
    values += weights;
  }
}

TrellisIntegers::TrellisIntegers(const TrellisFormat& format)
    : peak_(
          IntegerPeak(ErrorPrecision(format.Shift(0), format.Shift(1), format.weights_per_step()))),
      per_unit_(peak_ / TrellisCodebookPeak(format.code())) {}

int16_t TrellisIntegers::Value(float value) const {
  return static_cast<int16_t>(std::floor(value * per_unit_ + 0.5));
}

int16_t TrellisIntegers::Target(float target) const {
  const double integer = std::floor(static_cast<double>(target) * per_unit_ + 0.5);
  return static_cast<int16_t>(std::clamp(integer, -peak_, peak_));
}

// The search for the best path. Steps are numbered in the order of weights and run from high to
// low, so a survivor of step s is the low 16 - Shift(s - 1) bits of a state of step s.
class TileEncoder::Search {
 public:
  explicit Search(const TrellisFormat& format);

  // In integers.
  void SetTargets(const float* targets, const Ignored& ignored);

  // Writes the bits of a path that ends where it began.
  void Run(uint8_t* bits);

 private:
  // Runs one step and lowers the metrics if need be. Only `traced` steps leave choices.
  void Advance(int step, bool traced);
  // The choices of a step, to be read back.
  uint16_t* Choices(int step) { return choices_.get() + static_cast<size_t>(step) * choice_words_; }
  // The state of `step` that led to survivor r.
  uint32_t StateBefore(int step, size_t r);
  // The survivor between step 0 and the last one, which share 16 - Shift(last) bits of the ring.
  size_t FindWrap();

  int OutOf(int step) const { return format_.Shift(step == 0 ? format_.steps() - 1 : step - 1); }

  TrellisFormat format_;
  const TrellisIntegers integers_;
  Aligned<int16_t> values_[2][2];  // [component][out - the smaller Shift]
  Aligned<int16_t> zeros_;         // in place of values_ where the target is ignored
  Aligned<uint16_t> from_, to_;    // survivors' metrics
  Aligned<uint16_t> choices_;      // [step][choice_words_]
  size_t choice_words_ = 0;        // of the step that has most
  int16_t targets_[kTileWeights];
  Ignored ignored_;
};

TileEncoder::Search::Search(const TrellisFormat& format) : format_(format), integers_(format) {
  const int low = format.Shift(0);
  for (int out = low; out <= format.Shift(1); ++out) {
    for (int i = 0; i < format.weights_per_step(); ++i) {
      values_[i][out - low] = hwy::AllocateAligned<int16_t>(kTrellisStates);
    }
    for (uint32_t state = 0; state < kTrellisStates; ++state) {
      float values[2];
      DecodeTrellisState(format.code(), state, values);
      for (int i = 0; i < format.weights_per_step(); ++i) {
        values_[i][out - low][StreamIndex(state, out)] = integers_.Value(values[i]);
      }
    }
    choice_words_ = std::max(choice_words_, ChoiceWords(out));
  }
  from_ = hwy::AllocateAligned<uint16_t>(SurvivorCount(low) + kSurvivorPadding);
  to_ = hwy::AllocateAligned<uint16_t>(SurvivorCount(low) + kSurvivorPadding);
  std::fill_n(from_.get(), SurvivorCount(low) + kSurvivorPadding, uint16_t{0});
  std::fill_n(to_.get(), SurvivorCount(low) + kSurvivorPadding, uint16_t{0});
  choices_ = hwy::AllocateAligned<uint16_t>(choice_words_ * static_cast<size_t>(format.steps()));
}

void TileEncoder::Search::SetTargets(const float* targets, const Ignored& ignored) {
  ignored_ = ignored;
  if (ignored.any() && zeros_ == nullptr) {
    zeros_ = hwy::AllocateAligned<int16_t>(kTrellisStates);
    std::fill_n(zeros_.get(), kTrellisStates, int16_t{0});
  }
  for (size_t i = 0; i < kTileWeights; ++i) {
    targets_[i] = ignored[i] ? int16_t{0} : integers_.Target(targets[i]);
  }
}

void TileEncoder::Search::Advance(int index, bool traced) {
  ViterbiStep step;
  step.in = format_.Shift(index);
  step.out = OutOf(index);
  step.components = format_.weights_per_step();
  for (int i = 0; i < step.components; ++i) {
    const auto weight =
        static_cast<size_t>(index) * static_cast<size_t>(step.components) + static_cast<size_t>(i);
    step.targets[i] = targets_[weight];
    step.values[i] =
        ignored_[weight] ? zeros_.get() : values_[i][step.out - format_.Shift(0)].get();
  }
  step.from = from_.get();
  step.to = to_.get();
  step.choices = traced ? Choices(index) : nullptr;
  const uint16_t least = RunViterbiStep(step);
  if (least >= kLowerAt) LowerMetrics(to_.get(), SurvivorCount(step.out), least);
  std::swap(from_, to_);
}

uint32_t TileEncoder::Search::StateBefore(int step, size_t r) {
  const int out = OutOf(step);
  return Choice(Choices(step), out, r) << (kTrellisStateBits - out) | static_cast<uint32_t>(r);
}

size_t TileEncoder::Search::FindWrap() {
  const int steps = format_.steps();
  const int half = steps / 2;
  std::fill_n(from_.get(), SurvivorCount(format_.Shift(half - 1)), uint16_t{0});
  for (int step = half; step-- > 0;) Advance(step, false);
  for (int step = steps; step-- > half;) Advance(step, true);
  const uint16_t* begin = from_.get();
  const uint16_t* end = begin + SurvivorCount(OutOf(half));
  auto survivor = static_cast<size_t>(std::min_element(begin, end) - begin);
  for (int step = half; step < steps; ++step) {
    survivor = StateBefore(step, survivor) >> format_.Shift(step);
  }
  return survivor;
}

void TileEncoder::Search::Run(uint8_t* bits) {
  size_t survivor = FindWrap();
  const int steps = format_.steps();
  std::fill_n(from_.get(), SurvivorCount(format_.Shift(steps - 1)), kUnreachable);
  from_[survivor] = 0;
  for (int step = steps; step-- > 0;) Advance(step, true);
  std::memset(bits, 0, format_.tile_bytes());
  for (int step = 0; step < steps; ++step) {
    const uint32_t state = StateBefore(step, survivor);
    const int shift = format_.Shift(step);
    PutBits(bits, format_.Offset(step), shift, state & ((1u << shift) - 1));
    survivor = state >> shift;
  }
}

TileEncoder::TileEncoder(const TrellisFormat& format)
    : format_(format), search_(std::make_unique<Search>(format)) {}
TileEncoder::~TileEncoder() = default;
TileEncoder::TileEncoder(TileEncoder&&) noexcept = default;
TileEncoder& TileEncoder::operator=(TileEncoder&&) noexcept = default;

void TileEncoder::Encode(const float* targets, uint8_t* bits, float* decoded) {
  Encode(targets, Ignored(), bits, decoded);
}

void TileEncoder::Encode(const float* targets, const Ignored& ignored, uint8_t* bits,
                         float* decoded) {
  search_->SetTargets(targets, ignored);
  search_->Run(bits);
  DecodeTile(format_, bits, decoded);
}

}  // namespace quantloom
