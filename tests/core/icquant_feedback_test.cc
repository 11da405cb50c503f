// ICQuant's codes under LDLQ, through the codec interface.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/rounding/hessian_factors.h"
#include "tests/core/codec_testing.h"
#include "tests/core/every_simd_target.h"
#include "tests/core/rounding_testing.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kRows = 40;
constexpr uint64_t kCols = 96;

Hessian InputHessian(uint64_t n, uint32_t seed) { return CorrelatedHessian(400, n, seed); }

EncodedMatrix Encode(absl::string_view recipe, absl::Span<const float> weights, uint64_t rows,
                     uint64_t cols, const Hessian* hessian, int threads = 1) {
  ThreadTeam team(threads);
  EncodeInput input{.weights = weights, .rows = rows, .cols = cols};
  HessianFactors factors(hessian == nullptr ? Hessian(cols) : *hessian);
  std::vector<float> importance;
  if (hessian != nullptr) {
    importance = hessian->MeanSquares();
    input.importance = importance;
    input.hessian = &factors;
  }
  auto encoded = (*CreateCodec(recipe))->Encode(input, team);
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  return *std::move(encoded);
}

std::vector<float> Decode(const EncodedMatrix& encoded, uint64_t rows, uint64_t cols) {
  ThreadTeam team(1);
  const auto matrix = OpenMatrix(encoded.recipe, rows, cols, Views(encoded.planes));
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  return Dequantize(**matrix, team);
}

// tr(E H E^T) / tr(W H W^T) by its definition.
double PlainProxyLoss(const Hessian& hessian, const std::vector<float>& weights,
                      const std::vector<float>& decoded) {
  const uint64_t n = hessian.size();
  double error = 0, signal = 0;
  for (uint64_t r = 0; r < weights.size() / n; ++r) {
    for (uint64_t i = 0; i < n; ++i) {
      const double wi = weights[r * n + i], ei = wi - decoded[r * n + i];
      for (uint64_t j = 0; j < n; ++j) {
        const double wj = weights[r * n + j], ej = wj - decoded[r * n + j];
        error += ei * hessian.at(i, j) * ej;
        signal += wi * hessian.at(i, j) * wj;
      }
    }
  }
  return error / signal;
}

class IcquantFeedbackTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::vector<float> weights_ = GaussianWeights(kRows * kCols, 5);
  Hessian hessian_ = InputHessian(kCols, 6);
};

TEST_P(IcquantFeedbackTest, LosesLessOfTheOutputsThanNearestRounding) {
  const std::string recipe = GetParam();
  const EncodedMatrix feedback = Encode(recipe, weights_, kRows, kCols, &hessian_);
  const EncodedMatrix nearest =
      Encode(recipe + ",rounding=nearest", weights_, kRows, kCols, &hessian_);
  EXPECT_THAT(feedback.recipe, HasSubstr("rounding=ldlq"));
  const double loss = PlainProxyLoss(hessian_, weights_, Decode(feedback, kRows, kCols));
  EXPECT_LT(loss, 0.75 * PlainProxyLoss(hessian_, weights_, Decode(nearest, kRows, kCols)));
  EXPECT_NEAR(feedback.relative_error, loss, 1e-6 * loss);
}

TEST_P(IcquantFeedbackTest, SameBytesForAnyNumberOfThreadsAndEveryTarget) {
  const EncodedMatrix first = Encode(GetParam(), weights_, kRows, kCols, &hessian_, 1);
  OnEverySimdTarget([&](const std::string&) {
    const EncodedMatrix other = Encode(GetParam(), weights_, kRows, kCols, &hessian_, 3);
    EXPECT_EQ(other.recipe, first.recipe);
    ASSERT_EQ(other.planes.size(), first.planes.size());
    for (size_t i = 0; i < first.planes.size(); ++i) {
      EXPECT_EQ(other.planes[i].bytes, first.planes[i].bytes) << first.planes[i].name;
    }
  });
}

// Incoherence processing spreads what a few large columns hold, which is what outlier coding is
// for: without outliers it must help, and the stored matrix must say how to undo it.
TEST(IcquantIncoherenceTest, HelpsWhereOutliersAreNotCodedApart) {
  std::vector<float> weights = GaussianWeights(kRows * kCols, 21);
  for (uint64_t i = 0; i < weights.size(); i += 25) weights[i] *= 12;
  const Hessian hessian = InputHessian(kCols, 22);
  const auto loss = [&](absl::string_view recipe) {
    const EncodedMatrix encoded = Encode(recipe, weights, kRows, kCols, &hessian, 2);
    const double exact = PlainProxyLoss(hessian, weights, Decode(encoded, kRows, kCols));
    EXPECT_NEAR(encoded.relative_error, exact, 1e-3 * exact);
    return exact;
  };
  const std::string scalar = "icquant:bits=3,outliers=0,codebook=tensor";
  EXPECT_LT(loss(scalar + ",incoherence=two-sided"), 0.8 * loss(scalar));
  EXPECT_LT(loss(scalar + ",incoherence=input,hadamard=128"), loss(scalar));
}

INSTANTIATE_TEST_SUITE_P(Recipes, IcquantFeedbackTest,
                         ::testing::Values("icquant:bits=1,outliers=0.05", "icquant:bits=2",
                                           "icquant:bits=3,codebook=tensor",
                                           "icquant:bits=2,codebook=fp16",
                                           "icquant:bits=4,outliers=0,offset=row,codebook=int8",
                                           "icquant:bits=3,inner=rtn"));

TEST(IcquantFeedback, KeepsTheOutliersWhereNearestRoundingHasThem) {
  const std::vector<float> weights = GaussianWeights(kRows * kCols, 7);
  const Hessian hessian = InputHessian(kCols, 8);
  const EncodedMatrix feedback = Encode("icquant:bits=2", weights, kRows, kCols, &hessian);
  const EncodedMatrix nearest =
      Encode("icquant:bits=2,rounding=nearest", weights, kRows, kCols, &hessian);
  for (const char* plane : {"index", "index_counts", "index_base"}) {
    EXPECT_EQ(PlaneNamed(feedback, plane).bytes, PlaneNamed(nearest, plane).bytes) << plane;
  }
}

TEST(IcquantFeedback, IsNearestRoundingWhereInputsAreUncorrelated) {
  const std::vector<float> weights = GaussianWeights(kRows * kCols, 9);
  std::vector<double> identity(kCols * kCols);
  for (uint64_t i = 0; i < kCols; ++i) identity[i * kCols + i] = 1;
  const Hessian hessian(kCols, identity, 1);
  const auto codes = [&](absl::string_view recipe) {
    return PlaneNamed(Encode(recipe, weights, kRows, kCols, &hessian), "codes").bytes;
  };
  EXPECT_EQ(codes("icquant:bits=2"), codes("icquant:bits=2,rounding=nearest"));
}

TEST(IcquantFeedback, WithoutAHessianTheRecipeSaysNearest) {
  const std::vector<float> weights = GaussianWeights(kRows * kCols, 10);
  const EncodedMatrix encoded = Encode("icquant:bits=3", weights, kRows, kCols, nullptr);
  EXPECT_THAT(encoded.recipe, HasSubstr("rounding=nearest"));
  EXPECT_EQ(
      encoded.planes[0].bytes,
      Encode("icquant:bits=3,rounding=nearest", weights, kRows, kCols, nullptr).planes[0].bytes);
}

TEST(IcquantFeedback, TakesAnyHessianAndShape) {
  struct Case {
    const char* name;
    uint64_t rows, cols;
    Hessian hessian;
  };
  std::vector<double> dead(9 * 9);
  for (uint64_t i = 0; i < 9; i += 2) dead[i * 9 + i] = 2;
  const std::vector<double> ones(7 * 7, 1.0);  // singular: one token
  Case cases[] = {{"no tokens", 5, 7, Hessian(7)},
                  {"one token", 5, 7, Hessian(7, ones, 1)},
                  {"dead inputs", 4, 9, Hessian(9, dead, 3)},
                  {"one column", 6, 1, InputHessian(1, 1)},
                  {"one row", 1, 33, InputHessian(33, 2)}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    for (const char* recipe : {"icquant:bits=2", "icquant:bits=8,rounding=ldlq"}) {
      const std::vector<float> weights = GaussianWeights(c.rows * c.cols, 11);
      const EncodedMatrix encoded = Encode(recipe, weights, c.rows, c.cols, &c.hessian);
      EXPECT_TRUE(std::isfinite(encoded.relative_error));
      for (const float value : Decode(encoded, c.rows, c.cols)) EXPECT_TRUE(std::isfinite(value));
    }
  }
}

TEST(IcquantFeedback, ANonFiniteHessianIsRefused) {
  const Hessian hessian(3, std::vector<double>(9, std::nan("")), 1);
  HessianFactors factors(hessian);
  ThreadTeam team(1);
  const std::vector<float> weights(6, 1.0f);
  const auto encoded =
      (*CreateCodec("icquant:bits=2"))
          ->Encode({.weights = weights, .rows = 2, .cols = 3, .hessian = &factors}, team);
  EXPECT_TRUE(absl::IsInvalidArgument(encoded.status())) << encoded.status();
}

}  // namespace
}  // namespace quantloom
