#include "core/rounding/ldlq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "core/rounding/proxy_loss.h"
#include "tests/core/every_simd_target.h"
#include "tests/core/gaussian_values.h"
#include "tests/core/rounding_testing.h"

namespace quantloom {
namespace {

using testing::ElementsAre;

// Integers times a step. Blocks are counted to see that each is asked for once and in order.
class UniformQuantizer final : public ColumnQuantizer {
 public:
  UniformQuantizer(uint64_t width, uint64_t rows, float step)
      : width_(width), rows_(rows), step_(step) {}

  uint64_t width() const override { return width_; }

  absl::Status Quantize(uint64_t first_column, uint64_t columns, const float* targets,
                        float* decoded, ThreadTeam&) override {
    firsts_.push_back(first_column);
    columns_.push_back(columns);
    for (uint64_t i = 0; i < columns * rows_; ++i) decoded[i] = Round(targets[i]);
    return firsts_.size() < fails_at_ ? absl::OkStatus()
                                      : absl::InternalError("the device is gone");
  }

  float Round(float value) const { return step_ * std::nearbyint(value / step_); }

  std::vector<uint64_t> firsts_, columns_;
  size_t fails_at_ = SIZE_MAX;  // the block

 private:
  uint64_t width_, rows_;
  float step_;
};

constexpr float kStep = 0.75f;

std::vector<float> RunLdlq(const BlockLdl& ldl, const std::vector<float>& weights_t, uint64_t rows,
                           ThreadTeam& team) {
  UniformQuantizer quantizer(ldl.block(), rows, kStep);
  std::vector<float> decoded(weights_t.size(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(Ldlq(ldl, weights_t, rows, quantizer, absl::MakeSpan(decoded), team).ok());
  return decoded;
}

BlockLdl MustFactor(const Hessian& hessian, uint64_t block) {
  ThreadTeam team(1);
  auto ldl = BlockLdl::Factor(hessian, block, team);
  EXPECT_TRUE(ldl.ok()) << ldl.status();
  return *std::move(ldl);
}

// The definition, one weight after the other: one fused chain over later columns, last first.
std::vector<float> PlainLdlq(const BlockLdl& ldl, const std::vector<float>& weights_t,
                             uint64_t rows) {
  const uint64_t cols = ldl.size(), block = ldl.block();
  const UniformQuantizer quantizer(block, rows, kStep);
  std::vector<float> decoded(weights_t.size());
  for (uint64_t b = (cols + block - 1) / block; b-- > 0;) {
    const uint64_t end = std::min((b + 1) * block, cols);
    for (uint64_t i = b * block; i < end; ++i) {
      for (uint64_t r = 0; r < rows; ++r) {
        float feedback = 0;
        for (uint64_t j = cols; j-- > end;) {
          const float error = weights_t[j * rows + r] - decoded[j * rows + r];
          feedback = std::fma(ldl.L(j, i), error, feedback);
        }
        decoded[i * rows + r] = quantizer.Round(weights_t[i * rows + r] + feedback);
      }
    }
  }
  return decoded;
}

using Shape = std::tuple<uint64_t, uint64_t, uint64_t>;  // rows, cols, block

class LdlqShapes : public testing::TestWithParam<Shape> {};

TEST_P(LdlqShapes, Ldlq_EqualsItsDefinitionBitForBitOnEveryTargetAndThreadCount) {
  const auto [rows, cols, block] = GetParam();
  const BlockLdl ldl = MustFactor(CorrelatedHessian(2 * cols + 3, cols, 1), block);
  const std::vector<float> weights_t = GaussianValues(rows * cols, 2);
  const std::vector<float> expected = PlainLdlq(ldl, weights_t, rows);
  ThreadTeam one(1), two(2);
  OnEverySimdTarget([&](const std::string&) {
    EXPECT_EQ(RunLdlq(ldl, weights_t, rows, one), expected);
    EXPECT_EQ(RunLdlq(ldl, weights_t, rows, two), expected);
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, LdlqShapes,
                         testing::Values(Shape{1, 1, 1}, Shape{1, 30, 1}, Shape{50, 100, 1},
                                         Shape{97, 64, 8}, Shape{48, 96, 16}, Shape{200, 130, 8},
                                         Shape{33, 345, 16}, Shape{5, 700, 8}));

class LdlqBlocks : public testing::TestWithParam<uint64_t> {};

TEST_P(LdlqBlocks, Ldlq_HasLowerProxyLossThanNearest) {
  constexpr uint64_t kRows = 64, kCols = 192;
  const Hessian hessian = CorrelatedHessian(1000, kCols, 3);
  const std::vector<float> weights_t = GaussianValues(kRows * kCols, 4);
  ThreadTeam team(2);
  UniformQuantizer quantizer(GetParam(), kRows, kStep);
  std::vector<float> nearest(weights_t.size());
  ASSERT_TRUE(RoundToNearest(weights_t, kRows, quantizer, absl::MakeSpan(nearest), team).ok());
  const std::vector<float> ldlq = RunLdlq(MustFactor(hessian, GetParam()), weights_t, kRows, team);
  // Neighbours correlate as 0.9, so most of an error can be made good by the next column; a wide
  // block feeds back at its edge alone.
  const double share = GetParam() == 1 ? 0.5 : GetParam() == 8 ? 0.6 : 0.75;
  EXPECT_LT(ProxyLoss(hessian, weights_t, ldlq, kRows, team),
            share * ProxyLoss(hessian, weights_t, nearest, kRows, team));
}

// tr((W - What) H~ (W - What)^T) = tr(E D E^T), E = targets - What: the identity LDLQ rests on.
TEST_P(LdlqBlocks, Ldlq_LossIsTheQuantizersErrorWeightedByD) {
  constexpr uint64_t kRows = 20, kCols = 150;
  const Hessian hessian = CorrelatedHessian(400, kCols, 5);
  const BlockLdl ldl = MustFactor(hessian, GetParam());
  const std::vector<float> weights_t = GaussianValues(kRows * kCols, 6);
  ThreadTeam team(1);
  const std::vector<float> decoded = RunLdlq(ldl, weights_t, kRows, team);
  const auto error = [&](uint64_t r, uint64_t c) {
    return static_cast<double>(weights_t[c * kRows + r]) - decoded[c * kRows + r];
  };
  double direct = 0, weighted = 0;
  for (uint64_t r = 0; r < kRows; ++r) {
    std::vector<double> own(kCols);  // the quantizer's errors: (W - What) L
    for (uint64_t i = 0; i < kCols; ++i) {
      for (uint64_t j = i; j < kCols; ++j) own[i] += error(r, j) * ldl.L(j, i);
    }
    for (uint64_t i = 0; i < kCols; ++i) {
      for (uint64_t j = 0; j < kCols; ++j) {
        const double h = hessian.at(i, j) + (i == j ? ldl.damping() : 0.0);
        direct += error(r, i) * h * error(r, j);
        weighted += own[i] * ldl.D(i, j) * own[j];
      }
    }
    for (const double e : own) ASSERT_LE(std::abs(e), kStep / 2 + 1e-4);
  }
  EXPECT_NEAR(weighted / direct, 1.0, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Widths, LdlqBlocks, testing::Values(1, 8, 16));

TEST(Ldlq, Ldlq_OneBlockForTheWholeMatrixIsNearest) {
  constexpr uint64_t kRows = 70, kCols = 16;
  const std::vector<float> weights_t = GaussianValues(kRows * kCols, 7);
  ThreadTeam team(2);
  UniformQuantizer quantizer(16, kRows, kStep);
  std::vector<float> nearest(weights_t.size());
  ASSERT_TRUE(RoundToNearest(weights_t, kRows, quantizer, absl::MakeSpan(nearest), team).ok());
  EXPECT_EQ(RunLdlq(MustFactor(CorrelatedHessian(50, kCols, 8), 16), weights_t, kRows, team),
            nearest);
}

TEST(Ldlq, Ldlq_AsksForEachBlockOnceFromTheLast) {
  constexpr uint64_t kRows = 3, kCols = 60;
  const BlockLdl ldl = MustFactor(CorrelatedHessian(100, kCols, 9), 16);
  const std::vector<float> weights_t = GaussianValues(kRows * kCols, 10);
  std::vector<float> decoded(weights_t.size());
  ThreadTeam team(1);
  UniformQuantizer ldlq(16, kRows, kStep), nearest(16, kRows, kStep);
  ASSERT_TRUE(Ldlq(ldl, weights_t, kRows, ldlq, absl::MakeSpan(decoded), team).ok());
  ASSERT_TRUE(RoundToNearest(weights_t, kRows, nearest, absl::MakeSpan(decoded), team).ok());
  for (const UniformQuantizer* quantizer : {&ldlq, &nearest}) {
    EXPECT_THAT(quantizer->firsts_, ElementsAre(48, 32, 16, 0));
    EXPECT_THAT(quantizer->columns_, ElementsAre(12, 16, 16, 16));
  }
}

TEST(Ldlq, Ldlq_WeightsOfDeadInputsBecomeZeroAndDisturbNobody) {
  constexpr uint64_t kRows = 10, kCols = 64, kDead = 40;
  std::vector<float> inputs = CorrelatedInputs(200, kCols, 11);
  for (uint64_t t = 0; t < 200; ++t) inputs[t * kCols + kDead] = 0;
  ThreadTeam team(1);
  Hessian hessian(kCols);
  hessian.Accumulate(inputs, team);
  const BlockLdl ldl = MustFactor(hessian, 1);
  std::vector<float> weights_t = GaussianValues(kRows * kCols, 12);
  const std::vector<float> decoded = RunLdlq(ldl, weights_t, kRows, team);
  for (uint64_t r = 0; r < kRows; ++r) {
    EXPECT_EQ(decoded[kDead * kRows + r], 0.0f);
    weights_t[kDead * kRows + r] = 1000.0f;
  }
  EXPECT_EQ(RunLdlq(ldl, weights_t, kRows, team), decoded);
}

double PlainProxyLoss(const Hessian& hessian, const std::vector<float>& w,
                      const std::vector<float>& decoded, uint64_t rows) {
  const uint64_t cols = hessian.size();
  double loss = 0, norm = 0;
  for (uint64_t r = 0; r < rows; ++r) {
    for (uint64_t i = 0; i < cols; ++i) {
      for (uint64_t j = 0; j < cols; ++j) {
        const double wi = w[i * rows + r], wj = w[j * rows + r];
        const double ei = wi - decoded[i * rows + r], ej = wj - decoded[j * rows + r];
        loss += ei * hessian.at(i, j) * ej;
        norm += wi * hessian.at(i, j) * wj;
      }
    }
  }
  return loss / norm;
}

TEST(ProxyLoss, EqualsItsDefinitionAndHasTheSameBitsEverywhere) {
  ThreadTeam one(1), two(2);
  for (const auto& [rows, cols] : {std::pair<uint64_t, uint64_t>{1, 1}, {50, 100}, {900, 30}}) {
    const Hessian hessian = CorrelatedHessian(2 * cols, cols, 13);
    const std::vector<float> weights_t = GaussianValues(rows * cols, 14);
    std::vector<float> decoded = weights_t;
    for (float& w : decoded) w = std::nearbyint(w);
    const double loss = ProxyLoss(hessian, weights_t, decoded, rows, one);
    EXPECT_NEAR(loss / PlainProxyLoss(hessian, weights_t, decoded, rows), 1.0, 1e-10);
    OnEverySimdTarget([&, r = rows](const std::string&) {
      EXPECT_EQ(ProxyLoss(hessian, weights_t, decoded, r, two), loss);
    });
  }
}

TEST(ProxyLoss, DegenerateMatrices) {
  ThreadTeam team(1);
  const Hessian hessian = CorrelatedHessian(20, 8, 15);
  const std::vector<float> zeros(16), ones(16, 1.0f);
  EXPECT_EQ(ProxyLoss(hessian, ones, ones, 2, team), 0.0);
  EXPECT_EQ(ProxyLoss(hessian, ones, zeros, 2, team), 1.0);
  EXPECT_EQ(ProxyLoss(hessian, zeros, zeros, 2, team), 0.0);
  EXPECT_EQ(ProxyLoss(hessian, zeros, ones, 2, team), std::numeric_limits<double>::infinity());
}

TEST(Ldlq, AQuantizersErrorEndsTheRun) {
  constexpr uint64_t kRows = 3, kCols = 100;
  ThreadTeam team(1);
  const std::vector<float> weights_t = GaussianValues(kRows * kCols, 1);
  std::vector<float> decoded(weights_t.size());
  const BlockLdl ldl = MustFactor(CorrelatedHessian(200, kCols, 2), 16);
  UniformQuantizer ldlq(16, kRows, kStep), nearest(16, kRows, kStep);
  ldlq.fails_at_ = nearest.fails_at_ = 3;
  const absl::Status status = Ldlq(ldl, weights_t, kRows, ldlq, absl::MakeSpan(decoded), team);
  EXPECT_EQ(status, absl::InternalError("the device is gone"));
  EXPECT_EQ(RoundToNearest(weights_t, kRows, nearest, absl::MakeSpan(decoded), team), status);
  EXPECT_EQ(ldlq.firsts_.size(), 3);
  EXPECT_EQ(nearest.firsts_.size(), 3);
}

}  // namespace
}  // namespace quantloom
