#include "kernels/cpu/ops.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/every_target.h"

namespace quantloom::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Exp, IsWithinTwoUlpOverTheWholeRange) {
  // Every 997th float: about 4.3 million values. Where e^x is subnormal its unit is 2^-149.
  double worst = 0;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 997) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const float actual = Exp(x);
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(actual));
      continue;
    }
    const double expected = std::exp(static_cast<double>(x));
    if (expected > std::numeric_limits<float>::max()) {
      ASSERT_TRUE(actual == kInfinity || x < 88.7229f) << x;
      continue;
    }
    const double unit = std::max(
        std::ldexp(1.0, -149), std::ldexp(1.0, std::ilogb(expected > 0 ? expected : 1e-300) - 23));
    const double error = std::fabs(actual - expected) / unit;
    worst = std::max(worst, error);
    ASSERT_LE(error, 2.0) << "x = " << x << ", got " << actual << ", expected " << expected;
  }
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(Exp, SpecialValues) {
  OnEveryTarget([](const std::string&) {
    EXPECT_EQ(Exp(0.0f), 1.0f);
    EXPECT_EQ(Exp(-kInfinity), 0.0f);
    EXPECT_EQ(Exp(kInfinity), kInfinity);
    EXPECT_EQ(Exp(200.0f), kInfinity);
    EXPECT_EQ(Exp(-200.0f), 0.0f);
    EXPECT_TRUE(std::isnan(Exp(kNan)));
    EXPECT_GT(Exp(-103.0f), 0.0f);  // subnormal, not flushed
  });
}

TEST(Exp, IsTheSameOnEveryTarget) {
  ExpectSameBitsOnEveryTarget([] {
    std::vector<float> results;
    for (float x = -110.0f; x < 95.0f; x += 0.0137f) results.push_back(Exp(x));
    return results;
  });
}

TEST(RmsNorm, MatchesDoublePrecisionAndIsTheSameOnEveryTarget) {
  for (size_t n : {1, 15, 16, 17, 576, 1000}) {
    const std::vector<float> x = RandomFloats(n, 1, 3.0f), weight = RandomFloats(n, 2);
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    ExpectSameBitsOnEveryTarget([&] {
      std::vector<float> out(n);
      RmsNorm(x.data(), weight.data(), n, 1e-5f, out.data());
      for (size_t i = 0; i < n; ++i) {
        const double expected = x[i] * inverse * weight[i];
        EXPECT_NEAR(out[i], expected, 1e-6 * (1 + std::fabs(expected)));
      }
      return out;
    });
  }
}

TEST(Rope, RotatesEachPairByItsAngle) {
  for (size_t head_dim : {2, 6, 64, 80, 128}) {
    const size_t half = head_dim / 2;
    const std::vector<float> head = RandomFloats(head_dim, 5);
    std::vector<float> cos(half), sin(half);
    for (size_t i = 0; i < half; ++i) {
      cos[i] = std::cos(0.3f * static_cast<float>(i + 1));
      sin[i] = std::sin(0.3f * static_cast<float>(i + 1));
    }
    ExpectSameBitsOnEveryTarget([&] {
      std::vector<float> out = head;
      Rope(out.data(), cos.data(), sin.data(), head_dim);
      for (size_t i = 0; i < half; ++i) {
        const double a = head[i], b = head[i + half], c = cos[i], s = sin[i];
        EXPECT_NEAR(out[i], a * c - b * s, 1e-6);
        EXPECT_NEAR(out[i + half], b * c + a * s, 1e-6);
      }
      return out;
    });
  }
}

TEST(SwiGlu, MatchesDoublePrecisionAndIsTheSameOnEveryTarget) {
  std::vector<float> gate = RandomFloats(1003, 1, 10.0f), up = RandomFloats(1003, 2);
  gate[0] = -500.0f;
  gate[1] = 500.0f;
  gate[2] = 0.0f;
  ExpectSameBitsOnEveryTarget([&] {
    std::vector<float> out(gate.size());
    SwiGlu(gate.data(), up.data(), gate.size(), out.data());
    for (size_t i = 0; i < gate.size(); ++i) {
      const double g = gate[i];
      const double expected = g / (1 + std::exp(-g)) * up[i];
      EXPECT_NEAR(out[i], expected, 2e-6 * std::fabs(expected) + 1e-37) << g;
    }
    return out;
  });
}

TEST(Add, AddsEveryElement) {
  for (size_t n : {1, 7, 16, 33}) {
    const std::vector<float> x = RandomFloats(n, 1), y = RandomFloats(n, 2);
    OnEveryTarget([&](const std::string&) {
      std::vector<float> out = x;
      Add(out.data(), y.data(), n);
      for (size_t i = 0; i < n; ++i) EXPECT_EQ(out[i], x[i] + y[i]);
    });
  }
}

TEST(LogSumExp, MatchesDoublePrecisionAndIsTheSameOnEveryTarget) {
  for (size_t n : {1, 15, 16, 17, 49152}) {
    for (float offset : {0.0f, 1e4f, -1e4f}) {
      std::vector<float> x = RandomFloats(n, 3, 8.0f);
      double max = -1e300, sum = 0;
      for (float& v : x) {
        v += offset;
        max = std::max<double>(max, v);
      }
      for (const float v : x) sum += std::exp(v - max);
      const double expected = max + std::log(sum);
      ExpectSameBitsOnEveryTarget([&] {
        const float result = LogSumExp(x.data(), n);
        EXPECT_NEAR(result, expected, 1e-7 * std::fabs(expected) + 3e-6);
        return std::vector<float>{result};
      });
    }
  }
}

TEST(LogSumExp, SpecialValues) {
  OnEveryTarget([](const std::string&) {
    const std::vector<float> none(20, -kInfinity);
    EXPECT_EQ(LogSumExp(none.data(), none.size()), -kInfinity);
    std::vector<float> some(20, -kInfinity);
    some[17] = 2.5f;
    EXPECT_EQ(LogSumExp(some.data(), some.size()), 2.5f);
    some[3] = kInfinity;
    EXPECT_EQ(LogSumExp(some.data(), some.size()), kInfinity);
    some[3] = kNan;
    EXPECT_TRUE(std::isnan(LogSumExp(some.data(), some.size())));
  });
}

TEST(ArgMax, FindsTheFirstOfEqualsWhereverItIs) {
  OnEveryTarget([](const std::string&) {
    for (size_t n : {1, 2, 16, 17, 50}) {
      for (size_t at = 0; at < n; ++at) {
        std::vector<float> x(n, -1.0f);
        x[at] = 2.0f;
        x[n - 1] = 2.0f;
        EXPECT_EQ(ArgMax(x.data(), n), at);
      }
    }
  });
}

TEST(ArgMax, NanCountsAsSmallest) {
  OnEveryTarget([](const std::string&) {
    std::vector<float> x(40, kNan);
    EXPECT_EQ(ArgMax(x.data(), x.size()), 0u);
    x[33] = -kInfinity;
    EXPECT_EQ(ArgMax(x.data(), x.size()), 33u);
    x[20] = -5.0f;
    EXPECT_EQ(ArgMax(x.data(), x.size()), 20u);
    x[39] = kInfinity;
    EXPECT_EQ(ArgMax(x.data(), x.size()), 39u);
  });
}

}  // namespace
}  // namespace quantloom::cpu
