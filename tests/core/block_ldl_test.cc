#include "core/rounding/block_ldl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "tests/core/every_simd_target.h"
#include "tests/core/rounding_testing.h"

namespace quantloom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Largest |L D L^T - target| relative to the geometric mean of the diagonal elements.
double Misfit(const BlockLdl& ldl, const std::vector<double>& target) {
  const uint64_t n = ldl.size(), b = ldl.block();
  std::vector<double> ld(n * n);  // L D
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j < n; ++j) {
      const uint64_t first = j / b * b, end = std::min(first + b, n);
      for (uint64_t k = first; k < end; ++k) {
        ld[i * n + j] += static_cast<double>(ldl.L(i, k)) * ldl.D(k, j);
      }
    }
  }
  double worst = 0;
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (uint64_t k = 0; k < n; ++k) sum += ld[i * n + k] * static_cast<double>(ldl.L(j, k));
      const double scale = std::sqrt(target[i * n + i] * target[j * n + j]);
      worst = std::max(worst, std::abs(sum - target[i * n + j]) / scale);
    }
  }
  return worst;
}

std::vector<double> Damped(const Hessian& hessian, double damping) {
  std::vector<double> damped(hessian.data().begin(), hessian.data().end());
  for (uint64_t i = 0; i < hessian.size(); ++i) damped[i * hessian.size() + i] += damping;
  return damped;
}

class BlockLdlShapes : public testing::TestWithParam<std::tuple<uint64_t, uint64_t>> {};

TEST_P(BlockLdlShapes, Factor_ProductIsTheDampedHessian) {
  const auto [n, block] = GetParam();
  const Hessian hessian = CorrelatedHessian(2 * n + 8, n, 5);
  ThreadTeam team(2);
  const auto ldl = BlockLdl::Factor(hessian, block, team);
  ASSERT_TRUE(ldl.ok()) << ldl.status();
  double trace = 0;
  for (const double h : hessian.Diagonal()) trace += h;
  EXPECT_DOUBLE_EQ(ldl->damping(), 0.01 * (trace / static_cast<double>(n)));
  EXPECT_EQ(ldl->attempts(), 1);
  EXPECT_THAT(ldl->dead(), ElementsAre());
  // L is fp32.
  EXPECT_LT(Misfit(*ldl, Damped(hessian, ldl->damping())), 3e-6);
}

TEST_P(BlockLdlShapes, Factor_LIsUnitBlockLower) {
  const auto [n, block] = GetParam();
  ThreadTeam team(1);
  const auto ldl = BlockLdl::Factor(CorrelatedHessian(2 * n + 8, n, 6), block, team);
  ASSERT_TRUE(ldl.ok()) << ldl.status();
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = i / block * block; j < n; ++j) {
      ASSERT_EQ(ldl->L(i, j), i == j ? 1.0f : 0.0f) << i << ", " << j;
    }
    ASSERT_GT(ldl->D(i, i), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, BlockLdlShapes,
                         testing::Combine(testing::Values(1, 5, 16, 48, 90, 250, 431),
                                          testing::Values(1, 8, 16)));

TEST(BlockLdl, Factor_SameBitsForAnyThreadsAndTarget) {
  constexpr uint64_t kN = 300;
  const Hessian hessian = CorrelatedHessian(500, kN, 7);
  ThreadTeam one(1), two(2);
  const auto expected = BlockLdl::Factor(hessian, 8, one);
  ASSERT_TRUE(expected.ok());
  OnEverySimdTarget([&](const std::string&) {
    for (ThreadTeam* team : {&one, &two}) {
      const auto ldl = BlockLdl::Factor(hessian, 8, *team);
      ASSERT_TRUE(ldl.ok());
      for (uint64_t i = 0; i < kN; ++i) {
        for (uint64_t j = 0; j < kN; ++j) {
          ASSERT_EQ(ldl->L(i, j), expected->L(i, j));
          ASSERT_EQ(ldl->D(i, j), expected->D(i, j));
        }
      }
    }
  });
}

TEST(BlockLdl, Factor_SingleTokenIsFactored) {
  const Hessian hessian = CorrelatedHessian(1, 70, 8);  // rank 1
  ThreadTeam team(1);
  const auto ldl = BlockLdl::Factor(hessian, 16, team);
  ASSERT_TRUE(ldl.ok()) << ldl.status();
  EXPECT_LT(Misfit(*ldl, Damped(hessian, ldl->damping())), 3e-6);
}

TEST(BlockLdl, Factor_OutlierChannelIsFactored) {
  constexpr uint64_t kN = 100;
  std::vector<float> inputs = CorrelatedInputs(300, kN, 9);
  for (uint64_t t = 0; t < 300; ++t) inputs[t * kN + 33] *= 1e4f;
  ThreadTeam team(1);
  Hessian hessian(kN);
  hessian.Accumulate(inputs, team);
  const auto ldl = BlockLdl::Factor(hessian, 1, team);
  ASSERT_TRUE(ldl.ok()) << ldl.status();
  EXPECT_LT(Misfit(*ldl, Damped(hessian, ldl->damping())), 3e-6);
}

TEST(BlockLdl, Factor_AllZeroDecomposesAsIdentity) {
  ThreadTeam team(1);
  const auto ldl = BlockLdl::Factor(Hessian(50), 8, team);
  ASSERT_TRUE(ldl.ok()) << ldl.status();
  EXPECT_EQ(ldl->dead().size(), 50u);
  for (uint64_t i = 0; i < 50; ++i) {
    for (uint64_t j = 0; j < 50; ++j) ASSERT_EQ(ldl->L(i, j), i == j ? 1.0f : 0.0f);
  }
}

TEST(BlockLdl, Factor_DeadInputsAreUncoupledAndLeaveTheRestAlone) {
  constexpr uint64_t kN = 60, kTokens = 200;
  std::vector<float> inputs = CorrelatedInputs(kTokens, kN, 10);
  for (uint64_t t = 0; t < kTokens; ++t) inputs[t * kN + 3] = inputs[t * kN + 59] = 0;
  ThreadTeam team(1);
  Hessian hessian(kN);
  hessian.Accumulate(inputs, team);
  const auto ldl = BlockLdl::Factor(hessian, 1, team);
  ASSERT_TRUE(ldl.ok()) << ldl.status();
  EXPECT_THAT(ldl->dead(), ElementsAre(3, 59));
  double trace = 0;
  for (const double h : hessian.Diagonal()) trace += h;
  const double mean = trace / (kN - 2);
  std::vector<double> target = Damped(hessian, 0.01 * mean);
  for (const uint64_t i : {3, 59}) target[i * kN + i] = 1.01 * mean;
  EXPECT_LT(Misfit(*ldl, target), 3e-6);
  for (uint64_t j = 0; j < 59; ++j) EXPECT_EQ(ldl->L(59, j), 0.0f);
}

TEST(BlockLdl, Factor_RaisesDampingUntilAnIndefiniteMatrixFactors) {
  // Eigenvalues 1 + 5 and 1 - 5: definite from a damping of 4 on, which is 0.01 * 10^3 at last.
  ThreadTeam team(1);
  const auto ldl = BlockLdl::Factor(Hessian(2, {1, 5, 5, 1}, 1), 1, team);
  ASSERT_TRUE(ldl.ok()) << ldl.status();
  EXPECT_EQ(ldl->attempts(), 4);
  EXPECT_NEAR(ldl->damping(), 10, 1e-12);
  EXPECT_LT(Misfit(*ldl, {11, 5, 5, 11}), 3e-6);
}

TEST(BlockLdl, Factor_RejectsWhatIsNotFiniteAndNamesIt) {
  ThreadTeam team(1);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    std::vector<double> data(9, 0.5);
    data[2 * 3 + 1] = bad;
    const auto ldl = BlockLdl::Factor(Hessian(3, data, 1), 1, team);
    EXPECT_EQ(ldl.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ldl.status().message()), HasSubstr("[2, 1]"));
  }
  const double huge = std::numeric_limits<double>::max();
  EXPECT_EQ(BlockLdl::Factor(Hessian(2, {huge, huge, huge, huge}, 1), 1, team).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(BlockLdl, Factor_RejectsOtherBlockWidthsAndEmptyHessians) {
  ThreadTeam team(1);
  for (const uint64_t block : {0, 2, 4, 32}) {
    EXPECT_EQ(BlockLdl::Factor(Hessian(4), block, team).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(BlockLdl::Factor(Hessian(0), 8, team).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantloom
