#include "core/rounding/hessian.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/rounding/triangle.h"
#include "tests/core/every_simd_target.h"
#include "tests/core/rounding_testing.h"

namespace quantloom {
namespace {

std::vector<double> PlainProduct(const std::vector<float>& inputs, uint64_t n) {
  std::vector<double> h(n * n);
  for (uint64_t t = 0; t < inputs.size() / n; ++t) {
    const float* x = inputs.data() + t * n;
    for (uint64_t i = 0; i < n; ++i) {
      for (uint64_t j = 0; j < n; ++j) {
        h[i * n + j] += static_cast<double>(x[i]) * static_cast<double>(x[j]);
      }
    }
  }
  return h;
}

std::vector<double> Data(const Hessian& hessian) {
  return {hessian.data().begin(), hessian.data().end()};
}

class HessianShapes : public testing::TestWithParam<std::pair<uint64_t, uint64_t>> {};

TEST_P(HessianShapes, Accumulate_EqualsPlainSumInDouble) {
  const auto [n, tokens] = GetParam();
  const std::vector<float> inputs = CorrelatedInputs(tokens, n, 1);
  ThreadTeam team(2);
  Hessian hessian(n);
  hessian.Accumulate(inputs, team);
  const std::vector<double> expected = PlainProduct(inputs, n);
  EXPECT_EQ(hessian.tokens(), tokens);
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j < n; ++j) {
      const double scale = std::sqrt(expected[i * n + i] * expected[j * n + j]);
      ASSERT_NEAR(hessian.at(i, j), expected[i * n + j], 2e-6 * scale) << i << ", " << j;
      ASSERT_EQ(hessian.at(i, j), hessian.at(j, i));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, HessianShapes,
                         testing::Values(std::pair{1, 1}, std::pair{1, 700}, std::pair{7, 3},
                                         std::pair{48, 256}, std::pair{49, 257},
                                         std::pair{130, 1100}, std::pair{200, 2049}));

// The order that the header promises, element by element: fp32 chains of 256 tokens, fp64 above.
TEST(Hessian, Accumulate_SumsChunksInFp32AndThenInFp64) {
  constexpr uint64_t kN = 53, kTokens = 1400;
  const std::vector<float> inputs = CorrelatedInputs(kTokens, kN, 2);
  ThreadTeam team(1);
  Hessian hessian(kN);
  hessian.Accumulate(inputs, team);
  for (uint64_t i = 0; i < kN; ++i) {
    for (uint64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (uint64_t first = 0; first < kTokens; first += 256) {
        float chunk = 0;
        for (uint64_t t = first; t < std::min(first + 256, kTokens); ++t) {
          chunk = std::fma(inputs[t * kN + i], inputs[t * kN + j], chunk);
        }
        sum += static_cast<double>(chunk);
      }
      ASSERT_EQ(hessian.at(i, j), sum) << i << ", " << j;
    }
  }
}

TEST(Hessian, Accumulate_SameBitsForAnyThreadsTargetAndCutAtWholeChunks) {
  constexpr uint64_t kN = 150, kTokens = 1800;
  const std::vector<float> inputs = CorrelatedInputs(kTokens, kN, 3);
  const absl::Span<const float> all = inputs;
  ThreadTeam one(1), two(2);
  Hessian expected(kN);
  expected.Accumulate(all, one);
  OnEverySimdTarget([&](const std::string&) {
    Hessian whole(kN), cut(kN);
    whole.Accumulate(all, two);
    EXPECT_EQ(Data(whole), Data(expected));
    cut.Accumulate(all.subspan(0, 256 * kN), one);
    cut.Accumulate(all.subspan(256 * kN, 5 * 256 * kN), two);
    cut.Accumulate(all.subspan(6 * 256 * kN), one);
    EXPECT_EQ(Data(cut), Data(expected));
    EXPECT_EQ(cut.tokens(), kTokens);
  });
}

TEST(Hessian, Accumulate_WithoutTokensChangesNothing) {
  ThreadTeam team(1);
  Hessian hessian(5);
  hessian.Accumulate({}, team);
  EXPECT_EQ(hessian.tokens(), 0u);
  EXPECT_EQ(Data(hessian), std::vector<double>(25));
  EXPECT_EQ(hessian.MeanSquares(), std::vector<float>(5));
}

TEST(Hessian, MeanSquares_IsDiagonalPerToken) {
  ThreadTeam team(1);
  Hessian hessian(3);
  hessian.Accumulate({1, 0, 2, 3, 0, -2}, team);
  EXPECT_EQ(hessian.Diagonal(), (std::vector<double>{10, 0, 8}));
  EXPECT_EQ(hessian.MeanSquares(), (std::vector<float>{5, 0, 4}));
  EXPECT_EQ(hessian.at(0, 2), -4);
}

TEST(Hessian, FromMatrix_ReadsTheLowerHalfAndReleasesIt) {
  Hessian hessian(2, {1, -9, 3, 4}, 7);
  EXPECT_EQ(hessian.tokens(), 7u);
  EXPECT_EQ(Data(hessian), (std::vector<double>{1, 3, 3, 4}));
  EXPECT_EQ(std::move(hessian).Release(), (std::vector<double>{1, 3, 3, 4}));
}

TEST(Triangle, Position_NumbersRowByRowWithoutGaps) {
  size_t index = 0;
  for (size_t row = 0; row < 700; ++row) {
    for (size_t column = 0; column <= row; ++column, ++index) {
      const TriangleElement element = TrianglePosition(index);
      ASSERT_TRUE(element.row == row && element.column == column) << index;
    }
  }
  EXPECT_EQ(index, TriangleSize(700));
  // Where the root of 8 i + 1 is not exact.
  const size_t rows = size_t{3} << 24;
  EXPECT_EQ(TrianglePosition(TriangleSize(rows)).row, rows);
  EXPECT_EQ(TrianglePosition(TriangleSize(rows) - 1).row, rows - 1);
}

}  // namespace
}  // namespace quantloom
