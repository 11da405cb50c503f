#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/activation_codes.h"
#include "tests/kernels/every_target.h"

namespace quantloom::cpu {
namespace {

TEST(Activations, TheFloatFormIsACopyWithZerosBehind) {
  const size_t tokens = 2, cols = 70, stride = 75;
  const std::vector<float> x = RandomFloats(tokens * stride, 3);
  Activations a;
  a.Assign(x.data(), tokens, cols, stride, ActivationForm::kFloat);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t c = 0; c < a.padded_cols(); ++c) {
      EXPECT_EQ(a.row(t)[c], c < cols ? x[t * stride + c] : 0.0f);
    }
  }
}

// The sum of squares that a block leaves when its largest absolute value becomes `top`.
double LeftWith(float top, const std::vector<float>& block) {
  float max = 0;
  for (const float value : block) max = std::max(max, std::fabs(value));
  const double scale = static_cast<double>(max) / top;
  double left = 0;
  for (const float value : block) {
    left += std::pow(value - scale * std::nearbyint(value / scale), 2);
  }
  return left;
}

class Int8Activations : public testing::TestWithParam<ActivationForm> {};

TEST_P(Int8Activations, CodesAreQuotientsByTheScaleThatLeavesLeast) {
  for (size_t cols : {1, 3, 64, 65, 255, 256, 257, 511, 512, 513, 576, 1000}) {
    const size_t tokens = 3, stride = cols + 5;
    const std::vector<float> x = RandomFloats(tokens * stride, cols);
    OnEveryTarget([&](const std::string&) {
      Activations a;
      a.Assign(x.data(), tokens, cols, stride, GetParam());
      ASSERT_EQ(a.padded_cols() % 64, 0u);
      ASSERT_EQ(a.code_rows(), tokens);
      for (size_t t = 0; t < tokens; ++t) {
        std::vector<std::vector<float>> blocks(a.groups() * 16);
        std::vector<int32_t> sums(a.groups() * 16);
        for (size_t c = 0; c < cols; ++c) blocks[BlockOf(a, c)].push_back(x[t * stride + c]);
        double total = 0;
        for (size_t c = 0; c < a.padded_cols(); ++c) {
          const float scale = ScaleOf(a, t, BlockOf(a, c));
          const float value = c < cols ? x[t * stride + c] : 0.0f;
          ASSERT_LE(std::abs(CodeOf(a, t, c)), 127);
          // Half a step, and the rounding of the quotient.
          ASSERT_LE(std::fabs(value - scale * CodeOf(a, t, c)), scale * 0.50003f);
          sums[BlockOf(a, c)] += CodeOf(a, t, c);
          total += static_cast<double>(scale) * CodeOf(a, t, c);
        }
        for (size_t b = 0; b < sums.size(); ++b) {
          ASSERT_EQ(BiasOf(a, t, b), -128 * sums[b]);
          if (blocks[b].empty()) continue;
          float max = 0;
          for (const float value : blocks[b]) max = std::max(max, std::fabs(value));
          const float top = std::nearbyint(max / ScaleOf(a, t, b));
          ASSERT_EQ(ScaleOf(a, t, b), max / top);
          const double least = std::min(
              {LeftWith(127, blocks[b]), LeftWith(126, blocks[b]), LeftWith(125, blocks[b])});
          ASSERT_LE(LeftWith(top, blocks[b]), 1.0001 * least + 1e-9 * max * max);
        }
        EXPECT_NEAR(a.total(t), total, 1e-4);
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(, Int8Activations,
                         testing::Values(ActivationForm::kInt8Wide, ActivationForm::kInt8),
                         [](const auto& test) {
                           return test.param == ActivationForm::kInt8 ? "Of16" : "Of32";
                         });

TEST(Activations, ASecondRowOfCodesHasWhatTheFirstLeaves) {
  for (const size_t cols : {1, 64, 300, 576}) {
    const size_t tokens = 3;
    const std::vector<float> x = RandomFloats(tokens * cols, cols);
    Activations coarse;
    coarse.Assign(x.data(), tokens, cols, cols, ActivationForm::kInt8);
    OnEveryTarget([&](const std::string&) {
      Activations a;
      a.Assign(x.data(), tokens, cols, cols, ActivationForm::kInt16);
      ASSERT_EQ(a.code_rows(), 2 * tokens);
      for (size_t t = 0; t < tokens; ++t) {
        const size_t rest = tokens + t;
        double total = 0;
        std::vector<int32_t> sums(a.groups() * 16);
        for (size_t c = 0; c < a.padded_cols(); ++c) {
          const size_t block = BlockOf(a, c);
          ASSERT_EQ(CodeOf(a, t, c), CodeOf(coarse, t, c));
          ASSERT_EQ(ScaleOf(a, t, block), ScaleOf(coarse, t, block));
          ASSERT_EQ(ScaleOf(a, rest, block), ScaleOf(a, t, block) * (1.0f / 254));
          ASSERT_LE(std::abs(CodeOf(a, rest, c)), 127);
          const double value = static_cast<double>(ScaleOf(a, t, block)) * CodeOf(a, t, c) +
                               static_cast<double>(ScaleOf(a, rest, block)) * CodeOf(a, rest, c);
          // Half a step of the second row, and the roundings of the quotient and the scales.
          ASSERT_NEAR(value, c < cols ? x[t * cols + c] : 0.0f, ScaleOf(a, rest, block) * 0.506);
          sums[block] += CodeOf(a, rest, c);
          total += static_cast<double>(ScaleOf(a, rest, block)) * CodeOf(a, rest, c);
        }
        for (size_t b = 0; b < sums.size(); ++b) ASSERT_EQ(BiasOf(a, rest, b), -128 * sums[b]);
        EXPECT_EQ(a.total(t), coarse.total(t));
        EXPECT_NEAR(a.total(rest), total, 1e-4);
      }
    });
  }
}

TEST(Activations, AreTheSameOnEveryTargetAndInAnyBatch) {
  const size_t cols = 700, tokens = 7;
  std::vector<float> x = RandomFloats(tokens * cols, 1, 100.0f);
  // Exact ties of the rounding: multiples of half a step.
  for (size_t c = 0; c < cols; ++c) x[c] = 127.0f - static_cast<float>(c % 509) * 0.5f;
  for (const auto form : {ActivationForm::kInt8Wide, ActivationForm::kInt16}) {
    // Every row of codes of `count` tokens, a token's rows side by side.
    const auto flatten = [&](size_t first, size_t count) {
      Activations a;
      a.Assign(&x[first * cols], count, cols, cols, form);
      std::vector<float> all;
      for (size_t t = 0; t < count; ++t) {
        for (size_t i = t; i < a.code_rows(); i += count) {
          for (size_t c = 0; c < a.padded_cols(); ++c) all.push_back(CodeOf(a, i, c));
          for (size_t b = 0; b < a.groups() * 16; ++b) {
            all.push_back(ScaleOf(a, i, b));
            all.push_back(static_cast<float>(BiasOf(a, i, b)));
          }
          all.push_back(a.total(i));
        }
      }
      return all;
    };
    ExpectSameBitsOnEveryTarget([&] { return flatten(0, tokens); });
    std::vector<float> one_by_one;
    for (size_t t = 0; t < tokens; ++t) {
      const std::vector<float> one = flatten(t, 1);
      one_by_one.insert(one_by_one.end(), one.begin(), one.end());
    }
    EXPECT_TRUE(SameBits(one_by_one, flatten(0, tokens)));
  }
}

TEST(Activations, BlocksWithoutAUsableScale) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // One special value per block of the first step.
  const std::vector<float> specials = {infinity,  -infinity, nan,  0x1p-149f,
                                       0x1p-119f, -0.0f,     3e38f};
  std::vector<float> x(64, 0.0f);
  for (size_t i = 0; i < specials.size(); ++i) x[4 * i + 1] = specials[i];
  OnEveryTarget([&](const std::string&) {
    Activations a;
    a.Assign(x.data(), 1, 64, 64, ActivationForm::kInt16);
    for (size_t c = 0; c < 28; ++c) {
      ASSERT_EQ(CodeOf(a, 0, c), c == 25 ? 127 : 0) << c;
      ASSERT_EQ(CodeOf(a, 1, c), 0) << c;
    }
    for (const size_t i : {0, 1}) {
      for (size_t block : {0, 1, 2}) EXPECT_TRUE(std::isnan(ScaleOf(a, i, block))) << block;
      for (size_t block : {3, 4, 5}) EXPECT_EQ(ScaleOf(a, i, block), 0.0f) << block;
      EXPECT_TRUE(std::isnan(a.total(i)));
    }
    EXPECT_EQ(ScaleOf(a, 0, 6), 3e38f / 127.0f);
  });
}

}  // namespace
}  // namespace quantloom::cpu
