#include "core/codec/e8p.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/core/every_simd_target.h"
#include "tests/core/gaussian_values.h"

namespace quantloom {
namespace {

using Integers = std::array<int8_t, 8>;

Integers Decode(uint16_t code) {
  Integers quarters;
  DecodeE8p(kE8pTable, code, quarters.data());
  return quarters;
}

int SquaredNorm(const int8_t* v) {
  int norm = 0;
  for (int i = 0; i < 8; ++i) norm += v[i] * v[i];
  return norm;
}

int Sum(const int8_t* v) {
  int sum = 0;
  for (int i = 0; i < 8; ++i) sum += v[i];
  return sum;
}

// Whether x, in quarters, is in E8: all coordinates whole or all half-integers, with an even sum.
bool IsInE8(const Integers& x) {
  bool whole = true, half = true;
  for (const int8_t v : x) {
    whole &= v % 4 == 0;
    half &= std::abs(v % 4) == 2;
  }
  return (whole || half) && Sum(x.data()) % 8 == 0;
}

TEST(E8pTable, Holds227VectorsOfNormUpTo10And29OfNorm12) {
  std::set<Integers> magnitudes;
  int small = 0, norm12 = 0;
  for (const auto& entry : kE8pTable.entry) {
    Integers magnitude;
    for (int i = 0; i < 8; ++i) {
      magnitude[i] = static_cast<int8_t>(std::abs(entry[i]));
      EXPECT_TRUE(magnitude[i] == 2 || magnitude[i] == 6 || magnitude[i] == 10);
    }
    magnitudes.insert(magnitude);
    const int norm = SquaredNorm(entry);  // in sixteenths
    small += norm <= 16 * 10;
    norm12 += norm == 16 * 12;
    EXPECT_EQ(Sum(entry) % 8, 0);  // an even sum: D8 + 1/2
    EXPECT_TRUE(std::all_of(entry + 1, entry + 8, [](int8_t v) { return v > 0; }));
  }
  EXPECT_EQ(magnitudes.size(), 256u);
  EXPECT_EQ(small, 227);
  EXPECT_EQ(norm12, 29);
}

// The rule that the header states, by enumeration: no vector of norm <= 10 is missing, and the rest
// is a lexicode of squared distance 3.
TEST(E8pTable, FollowsItsRule) {
  std::vector<Integers> expected, norm12;
  for (int code = 0; code < 6561; ++code) {  // lexicographic: coordinate 0 varies slowest
    Integers magnitude;
    for (int i = 7, rest = code; i >= 0; --i, rest /= 3) {
      magnitude[i] = static_cast<int8_t>(2 + 4 * (rest % 3));
    }
    const int norm = SquaredNorm(magnitude.data());
    if (norm <= 16 * 10) expected.push_back(magnitude);
    if (norm == 16 * 12) norm12.push_back(magnitude);
  }
  ASSERT_EQ(expected.size(), 227u);
  ASSERT_EQ(norm12.size(), 224u);
  for (const Integers& candidate : norm12) {
    const bool apart = std::all_of(expected.begin() + 227, expected.end(), [&](const Integers& e) {
      Integers difference;
      for (int i = 0; i < 8; ++i) difference[i] = static_cast<int8_t>(candidate[i] - e[i]);
      return SquaredNorm(difference.data()) >= 16 * 3;
    });
    if (apart) expected.push_back(candidate);
  }
  ASSERT_GE(expected.size(), 256u);
  for (int e = 0; e < 256; ++e) {
    for (int i = 0; i < 8; ++i) ASSERT_EQ(std::abs(kE8pTable.entry[e][i]), expected[e][i]) << e;
  }
}

TEST(E8pTable, EveryCodewordIsInE8PlusAQuarter) {
  for (int code = 0; code < 65536; ++code) {
    Integers x = Decode(static_cast<uint16_t>(code));
    for (int8_t& v : x) v = static_cast<int8_t>(v - 1);
    ASSERT_TRUE(IsInE8(x)) << code;
  }
}

TEST(E8pTable, CodewordsAreDistinct) {
  std::set<Integers> codewords;
  for (int code = 0; code < 65536; ++code) codewords.insert(Decode(static_cast<uint16_t>(code)));
  EXPECT_EQ(codewords.size(), 65536u);
}

TEST(E8pTable, OneBitCodebookIsE8UpToNorm2AndFifteenOfNorm4) {
  std::set<Integers> entries;
  int norms[5] = {};
  for (const auto& entry : kE8OneBitTable.entry) {
    Integers quarters;
    for (int i = 0; i < 8; ++i) quarters[i] = static_cast<int8_t>(2 * entry[i]);
    EXPECT_TRUE(IsInE8(quarters));
    entries.insert(quarters);
    ++norms[SquaredNorm(entry) / 4];  // entries are in halves
  }
  EXPECT_EQ(entries.size(), 256u);
  EXPECT_EQ(norms[0], 1);
  EXPECT_EQ(norms[2], 240);  // the kissing number of E8
  EXPECT_EQ(norms[4], 15);
}

// Targets [8, rows] and what the encoder makes of them.
struct Encoded {
  std::vector<uint16_t> codes, residual_codes;
  std::vector<float> decoded;

  bool operator==(const Encoded&) const = default;
};

E8pRate Rate(int bits) { return *E8pRateOfBits(bits); }

Encoded Encode(int bits, const std::vector<float>& targets, const std::vector<float>& weights = {},
               int threads = 1) {
  const size_t rows = targets.size() / 8;
  Encoded result{std::vector<uint16_t>(rows), std::vector<uint16_t>(rows),
                 std::vector<float>(targets.size())};
  ThreadTeam team(threads);
  EncodeE8p(Rate(bits), targets.data(), weights.empty() ? nullptr : weights.data(), rows,
            result.codes.data(), result.residual_codes.data(), result.decoded.data(), team);
  return result;
}

double WeightedError(const std::vector<float>& targets, const std::vector<float>& decoded,
                     const std::vector<float>& weights, size_t row) {
  const size_t rows = targets.size() / 8;
  double error = 0;
  for (size_t i = row; i < targets.size(); i += rows) {
    const double miss = static_cast<double>(targets[i]) - decoded[i];
    error += (weights.empty() ? 1.0 : weights[i]) * miss * miss;
  }
  return error;
}

double MeanSquaredError(const std::vector<float>& targets, const std::vector<float>& decoded) {
  double error = 0;
  for (size_t r = 0; r < targets.size() / 8; ++r) error += WeightedError(targets, decoded, {}, r);
  return error / static_cast<double>(targets.size());
}

// The least weighted squared distance from row `row` to any of the 65 536 codewords.
double BruteForceError(const std::vector<float>& targets, const std::vector<float>& weights,
                       size_t row) {
  const size_t rows = targets.size() / 8;
  double least = std::numeric_limits<double>::infinity();
  for (int code = 0; code < 65536; ++code) {
    const Integers x = Decode(static_cast<uint16_t>(code));
    double error = 0;
    for (int i = 0; i < 8; ++i) {
      const double miss = static_cast<double>(targets[i * rows + row]) - 0.25 * x[i];
      error += (weights.empty() ? 1.0 : weights[i * rows + row]) * miss * miss;
    }
    least = std::min(least, error);
  }
  return least;
}

void ExpectNearest(const std::vector<float>& targets, const std::vector<float>& weights = {}) {
  const Encoded encoded = Encode(2, targets, weights);
  for (size_t r = 0; r < encoded.codes.size(); ++r) {
    const double nearest = BruteForceError(targets, weights, r);
    double scale = 0;  // what rounding in fp32 is relative to
    for (size_t i = r; i < targets.size(); i += encoded.codes.size()) {
      scale += std::abs(targets[i]) + 1.0;
    }
    ASSERT_NEAR(WeightedError(targets, encoded.decoded, weights, r), nearest, 1e-5 * scale) << r;
  }
}

TEST(E8p, Encode_FindsTheNearestOfAllCodewords) {
  ExpectNearest(GaussianValues(8 * 100, 1, 1.03f));
}

TEST(E8p, Encode_FindsTheNearestForTargetsOutsideTheCodebook) {
  ExpectNearest(GaussianValues(8 * 70, 1, 4.0f));
}

TEST(E8p, Encode_FindsTheNearestUnderWeights) {
  constexpr size_t kRows = 70;
  std::vector<float> masks(8 * kRows), spread(8 * kRows);
  std::mt19937 random(2);
  for (float& w : masks) w = random() % 4 == 0 ? 0.0f : 1.0f;
  for (float& w : spread) w = static_cast<float>(random() % 1000) * 0.004f;
  ExpectNearest(GaussianValues(8 * kRows, 3), masks);
  ExpectNearest(GaussianValues(8 * kRows, 4), spread);
}

// Of the second stage's 256 vectors, by trying them all.
TEST(E8p, Encode_SecondStageOf3BitsIsTheNearestToWhatIsLeft) {
  constexpr size_t kRows = 300;
  const std::vector<float> targets = GaussianValues(8 * kRows, 5, 0.98f);
  const Encoded first = Encode(2, targets), both = Encode(3, targets);
  EXPECT_EQ(both.codes, first.codes);
  for (size_t r = 0; r < kRows; ++r) {
    double nearest = std::numeric_limits<double>::infinity();
    for (const auto& entry : kE8OneBitTable.entry) {
      double error = 0;
      for (size_t i = 0; i < 8; ++i) {
        const double left =
            static_cast<double>(targets[i * kRows + r]) - first.decoded[i * kRows + r];
        const double miss = left - 0.5 * entry[i] / 2.04;
        error += miss * miss;
      }
      nearest = std::min(nearest, error);
    }
    ASSERT_NEAR(WeightedError(targets, both.decoded, {}, r), nearest, 1e-5) << r;
    ASSERT_LT(both.residual_codes[r], 256);
  }
}

TEST(E8p, Encode_SecondStageOf4BitsIsE8pOfWhatIsLeft) {
  constexpr size_t kRows = 100;
  const std::vector<float> targets = GaussianValues(8 * kRows, 6, 1.03f);
  const Encoded first = Encode(2, targets), both = Encode(4, targets);
  EXPECT_EQ(both.codes, first.codes);
  std::vector<float> left(targets.size());
  for (size_t i = 0; i < left.size(); ++i) left[i] = (targets[i] - first.decoded[i]) * 3.45f;
  const Encoded second = Encode(2, left);
  EXPECT_EQ(both.residual_codes, second.codes);
  for (size_t i = 0; i < left.size(); ++i) {
    ASSERT_NEAR(both.decoded[i], first.decoded[i] + second.decoded[i] / 3.45f, 1e-6);
  }
}

// Exact rounding to nearest (above) leaves 0.0912 at 2 bits. No choice of the 29 vectors of norm 12
// could leave less than about 0.0905: what 29 would that never compete for a target.
TEST(E8p, Encode_DistortionOfGaussianWeights) {
  constexpr size_t kRows = 1 << 15;
  const struct {
    int bits;
    double most;
  } cases[] = {{2, 0.0917}, {3, 0.0300}, {4, 0.0098}};
  for (const auto& c : cases) {
    const float rms = Rate(c.bits).input_rms;
    const std::vector<float> targets = GaussianValues(8 * kRows, 7, rms);
    EXPECT_LT(MeanSquaredError(targets, Encode(c.bits, targets).decoded) / (rms * rms), c.most)
        << c.bits << " bits";
  }
}

TEST(E8p, Encode_DecodedIsWhatTheCodesDecodeTo) {
  constexpr size_t kRows = 130;
  const std::vector<float> targets = GaussianValues(8 * kRows, 8);
  for (const int bits : {2, 3, 4}) {
    const Encoded encoded = Encode(bits, targets);
    for (size_t r = 0; r < kRows; ++r) {
      float vector[8];
      DecodeE8pVector(Rate(bits), encoded.codes[r], encoded.residual_codes[r], vector);
      for (size_t i = 0; i < 8; ++i) ASSERT_EQ(encoded.decoded[i * kRows + r], vector[i]);
    }
  }
}

TEST(E8p, Encode_CodewordsEncodeAsThemselves) {
  std::vector<float> targets(8 * 65536);
  for (size_t code = 0; code < 65536; ++code) {
    const Integers x = Decode(static_cast<uint16_t>(code));
    for (size_t i = 0; i < 8; ++i) targets[i * 65536 + code] = 0.25f * x[i];
  }
  const Encoded encoded = Encode(2, targets);
  for (size_t code = 0; code < 65536; ++code) ASSERT_EQ(encoded.codes[code], code);
  EXPECT_EQ(encoded.decoded, targets);
}

TEST(E8p, Encode_ZerosHugeValuesAndDenormals) {
  const float values[] = {0.0f, -0.0f, 1e4f, -1e4f, 1e30f, 1e-42f};
  for (const float value : values) {
    std::vector<float> targets(8 * 3, value);
    targets[1] = -value;
    for (const int bits : {2, 3, 4}) {
      const Encoded encoded = Encode(bits, targets);
      for (const float d : encoded.decoded) ASSERT_LE(std::abs(d), 4.0f) << value;
      for (const uint16_t code : encoded.residual_codes) ASSERT_TRUE(bits == 4 || code < 256);
    }
    if (std::abs(value) < 1e5f) ExpectNearest(targets);
  }
  // A tie is broken the same way for all: the smallest entry, shifted down.
  const Encoded zeros = Encode(2, std::vector<float>(8 * 5));
  EXPECT_EQ(zeros.codes, std::vector<uint16_t>(5, zeros.codes[0]));
  EXPECT_EQ(zeros.codes[0] & 0xFF01, 0);
}

TEST(E8p, Encode_SameResultOnEveryTargetForAnyThreadsAndBatch) {
  constexpr size_t kRows = 777;
  const std::vector<float> targets = GaussianValues(8 * kRows, 9);
  std::vector<float> weights = GaussianValues(8 * kRows, 10);
  for (float& w : weights) w = w < 0 ? 0.0f : w;
  for (const int bits : {2, 3, 4}) {
    const Encoded expected = Encode(bits, targets);
    const Encoded weighted = Encode(bits, targets, weights);
    OnEverySimdTarget([&](const std::string&) {
      EXPECT_EQ(Encode(bits, targets, {}, 2), expected);
      EXPECT_EQ(Encode(bits, targets, weights, 2), weighted);
    });
    std::vector<float> row(8);  // alone, it fills a lane of an otherwise empty batch
    for (size_t i = 0; i < 8; ++i) row[i] = targets[i * kRows + 700];
    EXPECT_EQ(Encode(bits, row).codes[0], expected.codes[700]);
    EXPECT_EQ(Encode(bits, row).residual_codes[0], expected.residual_codes[700]);
  }
}

TEST(E8p, RateOfBits_RejectsRatesThatItDoesNotHave) {
  for (const int bits : {-1, 0, 1, 5, 16}) {
    EXPECT_EQ(E8pRateOfBits(bits).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace quantloom
