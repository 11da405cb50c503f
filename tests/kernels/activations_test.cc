#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/every_target.h"

namespace quantloom::cpu {
namespace {

// The block that column c belongs to: group c / 256, lane (c % 64) / 4.
size_t BlockOf(size_t c) { return c / 256 * 16 + c % 64 / 4; }

TEST(Activations, CodesAreRoundedQuotientsOfTheBlocksMaximum) {
  for (size_t cols : {1, 3, 64, 65, 255, 256, 257, 576, 1000}) {
    const size_t tokens = 3, stride = cols + 5;
    const std::vector<float> x = RandomFloats(tokens * stride, cols);
    OnEveryTarget([&](const std::string&) {
      Activations a;
      a.Assign(x.data(), tokens, cols, stride, ActivationForm::kInt8);
      ASSERT_EQ(a.padded_cols() % 64, 0u);
      for (size_t t = 0; t < tokens; ++t) {
        std::vector<float> maxima(a.groups() * 16);
        std::vector<int32_t> sums(a.groups() * 16);
        for (size_t c = 0; c < cols; ++c) {
          maxima[BlockOf(c)] = std::max(maxima[BlockOf(c)], std::fabs(x[t * stride + c]));
        }
        double total = 0;
        for (size_t c = 0; c < a.padded_cols(); ++c) {
          const float scale = a.scales(t)[BlockOf(c)];
          const float value = c < cols ? x[t * stride + c] : 0.0f;
          ASSERT_EQ(a.row(t)[c], value);
          ASSERT_EQ(scale, maxima[BlockOf(c)] / 127.0f);
          ASSERT_LE(std::abs(a.codes(t)[c]), 127);
          // Half a step, and the rounding of the quotient.
          ASSERT_LE(std::fabs(value - scale * a.codes(t)[c]), scale * 0.50003f);
          sums[BlockOf(c)] += a.codes(t)[c];
          total += static_cast<double>(scale) * a.codes(t)[c];
        }
        for (size_t b = 0; b < sums.size(); ++b) ASSERT_EQ(a.biases(t)[b], -128 * sums[b]);
        EXPECT_NEAR(a.total(t), total, 1e-4);
      }
    });
  }
}

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
          const size_t block = BlockOf(c);
          ASSERT_EQ(a.codes(t)[c], coarse.codes(t)[c]);
          ASSERT_EQ(a.scales(t)[block], coarse.scales(t)[block]);
          ASSERT_EQ(a.scales(rest)[block], a.scales(t)[block] * (1.0f / 254));
          ASSERT_LE(std::abs(a.codes(rest)[c]), 127);
          const double value = static_cast<double>(a.scales(t)[block]) * a.codes(t)[c] +
                               static_cast<double>(a.scales(rest)[block]) * a.codes(rest)[c];
          // Half a step of the second row, and the roundings of the quotient and the scales.
          ASSERT_NEAR(value, c < cols ? x[t * cols + c] : 0.0f, a.scales(rest)[block] * 0.506);
          sums[block] += a.codes(rest)[c];
          total += static_cast<double>(a.scales(rest)[block]) * a.codes(rest)[c];
        }
        for (size_t b = 0; b < sums.size(); ++b) ASSERT_EQ(a.biases(rest)[b], -128 * sums[b]);
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
  // Every row of codes of `count` tokens, a token's rows side by side.
  const auto flatten = [&](size_t first, size_t count) {
    Activations a;
    a.Assign(&x[first * cols], count, cols, cols, ActivationForm::kInt16);
    std::vector<float> all;
    for (size_t t = 0; t < count; ++t) {
      for (const size_t i : {t, count + t}) {
        all.insert(all.end(), a.codes(i), a.codes(i) + a.padded_cols());
        all.insert(all.end(), a.scales(i), a.scales(i) + a.groups() * 16);
        all.insert(all.end(), a.biases(i), a.biases(i) + a.groups() * 16);
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
      ASSERT_EQ(a.codes(0)[c], c == 25 ? 127 : 0) << c;
      ASSERT_EQ(a.codes(1)[c], 0) << c;
    }
    for (const size_t i : {0, 1}) {
      for (size_t block : {0, 1, 2}) EXPECT_TRUE(std::isnan(a.scales(i)[block])) << block;
      for (size_t block : {3, 4, 5}) EXPECT_EQ(a.scales(i)[block], 0.0f) << block;
      EXPECT_TRUE(std::isnan(a.total(i)));
    }
    EXPECT_EQ(a.scales(0)[6], 3e38f / 127.0f);
  });
}

}  // namespace
}  // namespace quantloom::cpu
