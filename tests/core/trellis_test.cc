#include "core/codec/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/float16.h"
#include "core/codec/trellis_viterbi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/every_simd_target.h"
#include "tests/trellis_state.h"

namespace quantloom {
namespace {

using Tile = std::vector<float>;
using Bits = std::vector<uint8_t>;

constexpr TrellisCode kCodes[] = {TrellisCode::k1Mad, TrellisCode::kMul1, TrellisCode::k3Inst,
                                  TrellisCode::kHyb};

TrellisFormat Format(TrellisCode code, int half_bits) {
  return TrellisFormat::Create(code, half_bits).value();
}

std::vector<TrellisFormat> AllFormats() {
  std::vector<TrellisFormat> formats;
  for (TrellisCode code : kCodes) {
    for (int half_bits = 0; half_bits <= 32; ++half_bits) {
      const auto format = TrellisFormat::Create(code, half_bits);
      if (format.ok()) formats.push_back(*format);
    }
  }
  return formats;
}

// One of each pair of shifts and number of weights per step that the search is compiled for.
std::vector<TrellisFormat> FormatPerStepShape() {
  std::vector<TrellisFormat> formats;
  for (const TrellisFormat& format : AllFormats()) {
    if (format.code() == TrellisCode::kMul1 || format.code() == TrellisCode::kHyb) {
      formats.push_back(format);
    }
  }
  return formats;
}

std::string Name(const TrellisFormat& format) {
  static const char* const names[] = {"1MAD", "MUL1", "3INST", "HYB"};
  return std::string(names[static_cast<int>(format.code())]) + " at " +
         std::to_string(format.bits());
}

// Independent Gaussian weights at the format's best scale, in codebook units.
Tile GaussianTile(const TrellisFormat& format, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const double scale = TrellisCodebookRms(format.code()) * TrellisScaleFactor(format);
  Tile tile(kTileWeights);
  for (float& value : tile) value = static_cast<float>(scale * normal(random));
  return tile;
}

struct Encoded {
  Bits bits;
  Tile values;
};

Encoded Encode(const TrellisFormat& format, const Tile& targets,
               const TileEncoder::Ignored& ignored = {}) {
  TileEncoder encoder(format);
  Encoded encoded{Bits(format.tile_bytes(), 0xA5), Tile(kTileWeights)};
  encoder.Encode(targets.data(), ignored, encoded.bits.data(), encoded.values.data());
  return encoded;
}

double SquaredError(const Tile& a, const Tile& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

double Power(const Tile& a) { return SquaredError(a, Tile(a.size(), 0.0f)); }

// The Viterbi algorithm in double precision, written for clarity: the least squared error of a path
// from survivor `wrap` of the ring's end back to the same survivor at its start. -1 for `wrap`
// means that both ends are free and need not agree.
double PlainViterbi(const TrellisFormat& format, const Tile& targets, int wrap) {
  const int v = format.weights_per_step();
  std::vector<float> values(65536 * 2);
  for (uint32_t s = 0; s < 65536; ++s) DecodeTrellisState(format.code(), s, &values[s * 2]);
  const double infinity = std::numeric_limits<double>::infinity();
  const int last_shift = format.Shift(format.steps() - 1);
  std::vector<double> from(65536 >> last_shift, wrap < 0 ? 0 : infinity);
  if (wrap >= 0) from[static_cast<size_t>(wrap)] = 0;
  for (int step = format.steps(); step-- > 0;) {
    const int in = format.Shift(step);
    const int out = step > 0 ? format.Shift(step - 1) : last_shift;
    std::vector<double> to(65536 >> out, infinity);
    for (uint32_t s = 0; s < 65536; ++s) {
      double metric = from[s >> in];
      for (int i = 0; i < v; ++i) {
        const double d =
            static_cast<double>(targets[static_cast<size_t>(step * v + i)]) - values[s * 2 + i];
        metric += d * d;
      }
      double& best = to[s & (to.size() - 1)];
      best = std::min(best, metric);
    }
    from = std::move(to);
  }
  return wrap < 0 ? *std::min_element(from.begin(), from.end()) : from[static_cast<size_t>(wrap)];
}

TEST(TrellisCodeTest, IntegerCodesMatchTheirFormulasInEveryState) {
  for (uint64_t s = 0; s < 65536; ++s) {
    const auto byte_sum = [](uint64_t x) {
      x %= uint64_t{1} << 32;
      int sum = 0;
      for (; x > 0; x /= 256) sum += static_cast<int>(x % 256);
      return sum;
    };
    float value;
    DecodeTrellisState(TrellisCode::kMul1, static_cast<uint32_t>(s), &value);
    ASSERT_EQ(value, static_cast<float>(byte_sum(s * 0x83DCD12D) - 510)) << s;
    DecodeTrellisState(TrellisCode::k1Mad, static_cast<uint32_t>(s), &value);
    ASSERT_NEAR(value, (byte_sum(s * 34038481 + 76625530) - 510) / 147.8, 1e-6) << s;
  }
}

TEST(TrellisCodeTest, ThreeInstAddsTwoHalvesAsHardwareDoes) {
  for (uint64_t s = 0; s < 65536; ++s) {
    const uint64_t x = (s * 89226354 + 64248484) % (uint64_t{1} << 32);
    const auto low = static_cast<uint16_t>((x & 0x8FFF) ^ 0x3B60);
    const auto high = static_cast<uint16_t>((x >> 16 & 0x8FFF) ^ 0x3B60);
    const float sum = HalfToFloat(FloatToHalf(HalfToFloat(low) + HalfToFloat(high)));
    float value;
    DecodeTrellisState(TrellisCode::k3Inst, static_cast<uint32_t>(s), &value);
    ASSERT_EQ(value, sum) << s;
  }
}

TEST(TrellisCodeTest, HybLooksUpNineBitsAndNegatesByTheNext) {
  std::set<uint64_t> used;
  for (uint64_t s = 0; s < 65536; ++s) {
    const uint64_t hash = s * (s + 1);
    const uint64_t index = hash / 64 % 512;
    used.insert(hash / 64 % 1024);
    const float sign = hash / 32768 % 2 == 1 ? -1.0f : 1.0f;
    float values[2];
    DecodeTrellisState(TrellisCode::kHyb, static_cast<uint32_t>(s), values);
    ASSERT_EQ(values[0], sign * HalfToFloat(kHybTable[index][0])) << s;
    ASSERT_EQ(values[1], HalfToFloat(kHybTable[index][1])) << s;
  }
  EXPECT_EQ(used.size(), 1024u) << "every entry with both signs";
}

TEST(TrellisCodeTest, HybTableIsFoldedAndHasUnitRms) {
  std::set<std::pair<uint16_t, uint16_t>> pairs;
  double squares = 0;
  for (const auto& pair : kHybTable) {
    EXPECT_GT(HalfToFloat(pair[0]), 0.0f);
    pairs.insert({pair[0], pair[1]});
    for (const uint16_t half : pair) squares += std::pow(HalfToFloat(half), 2);
  }
  EXPECT_EQ(pairs.size(), 512u);
  EXPECT_NEAR(std::sqrt(squares / 1024), 1.0, 1e-3);
}

TEST(TrellisCodeTest, CodebookRmsAndPeakAreThoseOfAllStates) {
  // 3INST's is QTIP's figure; the sum of four uniform bytes has variance 4 (256^2 - 1) / 12.
  EXPECT_NEAR(TrellisCodebookRms(TrellisCode::k3Inst), 1.244, 2e-3);
  EXPECT_NEAR(TrellisCodebookRms(TrellisCode::kMul1), std::sqrt(65535 / 3.0), 1);
  EXPECT_NEAR(TrellisCodebookRms(TrellisCode::k1Mad), 1.0, 1e-2);
  EXPECT_NEAR(TrellisCodebookRms(TrellisCode::kHyb), 1.0, 1e-2);
  for (TrellisCode code : kCodes) {
    float peak = 0;
    for (uint32_t s = 0; s < 65536; ++s) {
      float values[2] = {};
      DecodeTrellisState(code, s, values);
      peak = std::max({peak, std::fabs(values[0]), std::fabs(values[1])});
    }
    EXPECT_EQ(TrellisCodebookPeak(code), peak);
  }
}

TEST(TrellisFormatTest, OffersOnlyTheRatesOfEachCode) {
  for (TrellisCode code : kCodes) {
    for (int half_bits : {-2, 0, 1, 9, 11, 13, 15, 17, 18, 1000}) {
      const auto format = TrellisFormat::Create(code, half_bits);
      EXPECT_EQ(format.status().code(), absl::StatusCode::kInvalidArgument) << half_bits;
      EXPECT_THAT(std::string(format.status().message()), testing::HasSubstr("bits"));
    }
    for (int half_bits = 2; half_bits <= 8; ++half_bits) {
      EXPECT_TRUE(TrellisFormat::Create(code, half_bits).ok()) << half_bits;
    }
    for (int half_bits : {10, 12, 14, 16}) {
      EXPECT_EQ(TrellisFormat::Create(code, half_bits).ok(), code != TrellisCode::kHyb);
    }
  }
}

TEST(TrellisFormatTest, EveryBitOfATileBelongsToOneStep) {
  for (const TrellisFormat& format : AllFormats()) {
    SCOPED_TRACE(Name(format));
    EXPECT_EQ(format.tile_bytes(), static_cast<size_t>(32 * format.bits()));
    EXPECT_EQ(format.Offset(0), 0);
    EXPECT_EQ(static_cast<size_t>(format.Offset(format.steps())), format.tile_bits());
    const int per_step = format.half_bits() * format.weights_per_step();
    for (int step = 0; step < format.steps(); ++step) {
      EXPECT_GE(format.Shift(step), per_step / 2);
      EXPECT_LE(format.Shift(step), (per_step + 1) / 2);
    }
  }
}

TEST(DecodeTileTest, ReadsEveryStateFromTheRingAcrossItsEnd) {
  std::mt19937 random(3);
  for (const TrellisFormat& format : AllFormats()) {
    SCOPED_TRACE(Name(format));
    Bits bits(format.tile_bytes());
    for (uint8_t& byte : bits) byte = static_cast<uint8_t>(random());
    Tile values(kTileWeights);
    DecodeTile(format, bits.data(), values.data());
    for (int step = 0; step < format.steps(); ++step) {
      float expected[2];
      DecodeTrellisState(format.code(), TrellisState(format, bits.data(), step), expected);
      for (int i = 0; i < format.weights_per_step(); ++i) {
        ASSERT_EQ(values[static_cast<size_t>(step * format.weights_per_step() + i)], expected[i]);
      }
    }
  }
}

TEST(TileEncoderTest, FindsTheBestPathOfDoublePrecision) {
  for (const TrellisFormat& format : FormatPerStepShape()) {
    SCOPED_TRACE(Name(format));
    const Tile targets = GaussianTile(format, 11);
    const Encoded encoded = Encode(format, targets);
    const double error = SquaredError(targets, encoded.values);
    // The survivor at the ring's end: the bits that the last state shares with the first.
    const int wrap =
        static_cast<int>(TrellisState(format, encoded.bits.data(), format.steps() - 1) >>
                         format.Shift(format.steps() - 1));
    const double best = PlainViterbi(format, targets, wrap);
    EXPECT_GE(error, best * (1 - 1e-9)) << "less than possible";
    EXPECT_LE(error, best * (format.bits() <= 6 ? 1.004 : 1.05));
    // What the ring costs against a path with free ends.
    EXPECT_LE(error, PlainViterbi(format, targets, -1) * 1.08);
  }
}

TEST(TileEncoderTest, DecodedValuesAreThoseOfTheBits) {
  for (const TrellisFormat& format : AllFormats()) {
    SCOPED_TRACE(Name(format));
    const Encoded encoded = Encode(format, GaussianTile(format, 5));
    Tile values(kTileWeights);
    DecodeTile(format, encoded.bits.data(), values.data());
    EXPECT_EQ(values, encoded.values);
  }
}

struct Distortion {
  TrellisCode code;
  int half_bits;
  double most;  // of 2^14 weights; a little above what 2^20 weights give
};

TEST(TileEncoderTest, ReachesTheDistortionOfThePapers) {
  const Distortion cases[] = {
      {TrellisCode::k1Mad, 2, 0.281},   {TrellisCode::kMul1, 2, 0.281},
      {TrellisCode::k1Mad, 4, 0.0705},  {TrellisCode::kMul1, 4, 0.0700},
      {TrellisCode::k3Inst, 4, 0.0710}, {TrellisCode::kHyb, 4, 0.0720},
      {TrellisCode::k1Mad, 6, 0.0187},  {TrellisCode::kMul1, 6, 0.0183},
      {TrellisCode::kMul1, 8, 0.0049},  {TrellisCode::kMul1, 3, 0.142},
      {TrellisCode::kMul1, 5, 0.0360},  {TrellisCode::kMul1, 7, 0.0094},
  };
  for (const Distortion& c : cases) {
    const TrellisFormat format = Format(c.code, c.half_bits);
    TileEncoder encoder(format);
    Bits bits(format.tile_bytes());
    Tile values(kTileWeights);
    double error = 0, power = 0;
    for (uint32_t seed = 0; seed < 64; ++seed) {
      const Tile targets = GaussianTile(format, seed);
      encoder.Encode(targets.data(), bits.data(), values.data());
      error += SquaredError(targets, values);
      power += Power(targets);
    }
    EXPECT_LE(error / power, c.most) << Name(format);
  }
}

TEST(TileEncoderTest, BytesAreTheSameOnEverySimdTarget) {
  std::vector<Bits> first;
  OnEverySimdTarget([&](const std::string& target) {
    std::vector<Bits> all;
    for (const TrellisFormat& format : FormatPerStepShape()) {
      all.push_back(Encode(format, GaussianTile(format, 17)).bits);
    }
    if (first.empty()) first = all;
    EXPECT_EQ(all, first) << target;
  });
}

TEST(TileEncoderTest, ReusedEncoderForgetsEarlierTiles) {
  const TrellisFormat format = Format(TrellisCode::k3Inst, 5);
  TileEncoder encoder(format);
  Bits bits(format.tile_bytes());
  Tile values(kTileWeights);
  TileEncoder::Ignored odd;
  for (size_t i = 1; i < kTileWeights; i += 2) odd.set(i);
  encoder.Encode(GaussianTile(format, 1).data(), odd, bits.data(), values.data());
  const Tile targets = GaussianTile(format, 2);
  encoder.Encode(targets.data(), bits.data(), values.data());
  EXPECT_EQ(bits, Encode(format, targets).bits);
}

TEST(TileEncoderTest, WritesValuesOverTheTargets) {
  const TrellisFormat format = Format(TrellisCode::kMul1, 4);
  Tile tile = GaussianTile(format, 1);
  const Encoded expected = Encode(format, tile);
  TileEncoder encoder(format);
  Bits bits(format.tile_bytes());
  encoder.Encode(tile.data(), bits.data(), tile.data());
  EXPECT_EQ(tile, expected.values);
}

TEST(TileEncoderTest, CodesConstantTilesClosely) {
  for (const TrellisFormat& format : AllFormats()) {
    SCOPED_TRACE(Name(format));
    const float rms = TrellisCodebookRms(format.code());
    for (const float level : {0.0f, 1.0f, -1.0f}) {
      const Tile tile(kTileWeights, level * rms);
      // A Gaussian source takes 1.1 to 1.4 times the bound.
      EXPECT_LE(SquaredError(tile, Encode(format, tile).values),
                2.5 * std::exp2(-2 * format.bits()) * kTileWeights * rms * rms);
    }
  }
}

TEST(TileEncoderTest, ClampsTargetsFarBeyondTheCodebook) {
  for (const TrellisFormat& format : FormatPerStepShape()) {
    SCOPED_TRACE(Name(format));
    const float rms = TrellisCodebookRms(format.code());
    for (const float huge : {1e4f, 1e30f, std::numeric_limits<float>::infinity()}) {
      // One huge weight of each sign disturbs those that share bits with it, and no others.
      const Tile plain = GaussianTile(format, 23);
      Tile tile = plain;
      tile[100] = huge;
      tile[140] = -huge;
      Tile values = Encode(format, tile).values;
      EXPECT_GT(values[100], 1.5f * rms);
      EXPECT_LT(values[140], -1.5f * rms);
      Tile wanted = plain;
      for (const size_t i : {100, 140}) values[i] = wanted[i] = 0;
      EXPECT_LE(SquaredError(wanted, values),
                1.6 * SquaredError(plain, Encode(format, plain).values));
      // A tile of nothing else saturates metrics again and again.
      std::fill(tile.begin(), tile.end(), -huge);
      values = Encode(format, tile).values;
      EXPECT_GT(std::count_if(values.begin(), values.end(), [](float v) { return v < 0; }), 240);
    }
  }
}

TEST(TileEncoderTest, FollowsTheSignsOfHugeTargets) {
  for (const int half_bits : {2, 3, 4}) {
    const TrellisFormat format = Format(TrellisCode::k1Mad, half_bits);
    Tile tile(kTileWeights);
    for (size_t i = 0; i < kTileWeights; ++i) tile[i] = i % 3 == 0 ? 1e4f : -1e4f;
    const Tile values = Encode(format, tile).values;
    size_t right = 0;
    for (size_t i = 0; i < kTileWeights; ++i) right += (values[i] > 0) == (i % 3 == 0);
    EXPECT_GE(right, kTileWeights * 85 / 100) << Name(format);
  }
}

TEST(TileEncoderTest, IgnoredTargetsAreNeitherReadNorPaidFor) {
  for (const TrellisFormat& format : FormatPerStepShape()) {
    SCOPED_TRACE(Name(format));
    Tile tile = GaussianTile(format, 29);
    TileEncoder::Ignored ignored;
    std::mt19937 random(1);
    for (int i = 0; i < 64; ++i) ignored.set(random() % kTileWeights);
    const auto error = [&](const Tile& values) {
      double sum = 0;
      for (size_t i = 0; i < kTileWeights; ++i) {
        if (!ignored[i]) sum += std::pow(static_cast<double>(tile[i]) - values[i], 2);
      }
      return sum;
    };
    const double all = error(Encode(format, tile).values);
    const Encoded encoded = Encode(format, tile, ignored);
    // The bits of a weight that does not matter help its neighbours.
    EXPECT_LT(error(encoded.values), 0.85 * all);
    Tile other = tile;
    for (size_t i = 0; i < kTileWeights; ++i) {
      if (ignored[i]) other[i] = std::numeric_limits<float>::quiet_NaN();
    }
    EXPECT_EQ(Encode(format, other, ignored).bits, encoded.bits);
  }
}

TEST(TileEncoderTest, IgnoringEveryTargetGivesAValidTile) {
  const TrellisFormat format = Format(TrellisCode::kHyb, 5);
  const Encoded encoded = Encode(format, Tile(kTileWeights, 1.0f), TileEncoder::Ignored().set());
  Tile values(kTileWeights);
  DecodeTile(format, encoded.bits.data(), values.data());
  EXPECT_EQ(values, encoded.values);
}

}  // namespace
}  // namespace quantloom
