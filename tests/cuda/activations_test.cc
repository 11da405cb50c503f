// Activations as products read them, against their documented scales and roundings.
#include "kernels/cuda/activations.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cuda/prepared_activations.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kCols = 300;
constexpr uint32_t kTokens = 11;

std::vector<float> RandomActivations() {
  std::vector<float> x = cpu::RandomFloats(kTokens * kCols, 9);
  std::fill(x.begin() + kCols, x.begin() + kCols + 128, 0.0f);  // a panel of zeros
  return x;
}

float PanelLargest(const std::vector<float>& x, uint32_t token, uint32_t panel) {
  float largest = 0;
  for (uint32_t c = panel * 128; c < std::min(kCols, (panel + 1) * 128); ++c) {
    largest = std::max(largest, std::fabs(x[token * kCols + c]));
  }
  return largest;
}

TEST(Int8ActivationsTest, ElementsAreTheNearestMultiplesOfTheirPanelsScale) {
  const std::vector<float> x = RandomActivations();
  const PreparedActivations prepared(ActivationForm::kInt8, x, kTokens, kCols);
  for (uint32_t token = 0; token < kTokens; ++token) {
    double total = 0;
    for (uint32_t column = 0; column < kCols; ++column) {
      const float scale = prepared.Scale(token, column / 128);
      EXPECT_EQ(scale, PanelLargest(x, token, column / 128) / 127.0f);
      const float element = prepared.Element(token, column);
      EXPECT_LE(std::fabs(element), 127);
      EXPECT_NEAR(element * scale, x[token * kCols + column], scale * 0.50001)
          << token << ", " << column;
      total += static_cast<double>(element) * scale;
    }
    EXPECT_NEAR(prepared.Total(token), total, 1e-4);
  }
  EXPECT_EQ(prepared.Scale(1, 0), 0);
}

TEST(HalfActivationsTest, ElementsAreRoundedToElevenBitsUnderAPowerOfTwo) {
  std::vector<float> x = RandomActivations();
  for (uint32_t c = 0; c < kCols; ++c) x[3 * kCols + c] *= 1e30f;
  for (uint32_t c = 0; c < kCols; ++c) x[4 * kCols + c] *= 1e-44f;  // subnormal
  for (uint32_t c = 0; c < kCols; ++c) x[5 * kCols + c] *= c % 2 == 0 ? 1 : 1e-12f;
  const PreparedActivations prepared(ActivationForm::kHalf, x, kTokens, kCols);
  for (uint32_t token = 0; token < kTokens; ++token) {
    for (uint32_t column = 0; column < kCols; ++column) {
      const float scale = prepared.Scale(token, column / 128);
      const float largest = PanelLargest(x, token, column / 128);
      if (largest > 1e-20f) {
        EXPECT_EQ(std::exp2(static_cast<float>(std::ilogb(largest) - 14)), scale);
      }
      const float value = x[token * kCols + column];
      const double bound = std::max(std::fabs(value) * 0x1p-11, largest * 0x1p-39) + 0x1p-139;
      EXPECT_NEAR(static_cast<double>(prepared.Element(token, column)) * scale, value, bound)
          << token << ", " << column;
    }
  }
}

TEST(ActivationsTest, PaddingIsZero) {
  for (const ActivationForm form : {ActivationForm::kInt8, ActivationForm::kHalf}) {
    const PreparedActivations prepared(form, RandomActivations(), kTokens, kCols);
    for (uint32_t token = 0; token < 16; ++token) {
      for (uint32_t column = token < kTokens ? kCols : 0; column < 384; ++column) {
        EXPECT_EQ(prepared.Element(token, column), 0);
      }
    }
  }
}

TEST(ActivationsTest, APanelThatIsNotFiniteHasANanScaleAlone) {
  for (const ActivationForm form : {ActivationForm::kInt8, ActivationForm::kHalf}) {
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN()}) {
      std::vector<float> x = RandomActivations();
      x[130] = bad;
      const PreparedActivations prepared(form, x, kTokens, kCols);
      EXPECT_TRUE(std::isnan(prepared.Scale(0, 1)));
      EXPECT_TRUE(std::isfinite(prepared.Scale(0, 0)));
      EXPECT_TRUE(std::isfinite(prepared.Scale(1, 1)));
      for (uint32_t column = 128; column < 256; ++column) EXPECT_EQ(prepared.Element(0, column), 0);
    }
  }
}

}  // namespace
}  // namespace quantloom::cuda
