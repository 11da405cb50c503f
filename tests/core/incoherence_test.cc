#include "core/transform/incoherence.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/parallel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/every_simd_target.h"
#include "tests/core/gaussian_values.h"

namespace quantloom {
namespace {

using ::testing::Each;

struct Shape {
  size_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 1},    {1, 2},   {2, 1},    {3, 7},     {7, 3},   {17, 100},
                             {100, 17}, {12, 20}, {64, 192}, {192, 576}, {172, 92}};
constexpr IncoherenceKind kKinds[] = {IncoherenceKind::kNone, IncoherenceKind::kInput,
                                      IncoherenceKind::kTwoSided};
constexpr HadamardBlocks kBlocks[] = {HadamardBlocks::kFull, HadamardBlocks::k128};

// Calls run(incoherence) for every shape, kind and block option.
template <class F>
void ForEachCase(const F& run) {
  for (const Shape shape : kShapes) {
    for (const IncoherenceKind kind : kKinds) {
      for (const HadamardBlocks blocks : kBlocks) {
        SCOPED_TRACE(testing::Message()
                     << shape.rows << "x" << shape.cols << ", kind " << static_cast<int>(kind)
                     << ", blocks " << static_cast<int>(blocks));
        run(Incoherence(shape.rows, shape.cols,
                        {.kind = kind, .blocks = blocks, .input_seed = 11, .output_seed = 12}));
      }
    }
  }
}

// y = W x in double precision.
std::vector<float> Product(const std::vector<float>& w, const std::vector<float>& x, size_t rows) {
  std::vector<float> y(rows);
  for (size_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (size_t c = 0; c < x.size(); ++c) sum += static_cast<double>(w[r * x.size() + c]) * x[c];
    y[r] = static_cast<float>(sum);
  }
  return y;
}

double RootMeanSquare(const std::vector<float>& values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * v;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

double LargestMagnitude(const std::vector<float>& values) {
  double largest = 0;
  for (const float v : values) largest = std::max(largest, std::abs(static_cast<double>(v)));
  return largest;
}

TEST(RandomSigns, AreTheBitsOfSplitMix64) {
  // The generator's first outputs for seed 1234567, as published with its reference code.
  constexpr uint64_t kOutputs[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                   4593380528125082431u, 16408922859458223821u};
  const std::vector<float> signs = RandomSigns(1234567, 5 * 64);
  for (size_t i = 0; i < signs.size(); ++i) {
    EXPECT_EQ(signs[i], (kOutputs[i / 64] >> (i % 64) & 1) != 0 ? -1.0f : 1.0f) << i;
  }
}

TEST(RandomSigns, AShorterVectorIsAPrefix) {
  const std::vector<float> all = RandomSigns(5, 200);
  EXPECT_EQ(RandomSigns(5, 77), std::vector<float>(all.begin(), all.begin() + 77));
  EXPECT_NE(RandomSigns(6, 200), all);
}

TEST(Incoherence, RestoredWeightsAreTheOriginals) {
  ThreadTeam team(2);
  ForEachCase([&](const Incoherence& incoherence) {
    const std::vector<float> w = GaussianValues(incoherence.rows() * incoherence.cols(), 1);
    std::vector<float> transformed = w;
    incoherence.TransformWeights(absl::MakeSpan(transformed), team);
    if (incoherence.options().kind == IncoherenceKind::kNone) {
      EXPECT_EQ(transformed, w);
    }
    incoherence.RestoreWeights(absl::MakeSpan(transformed), team);
    for (size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(transformed[i], w[i], 1e-5) << i;
  });
}

TEST(Incoherence, TheTransformedProductRestoredIsTheProduct) {
  ThreadTeam team(2);
  ForEachCase([&](const Incoherence& incoherence) {
    const size_t rows = incoherence.rows(), cols = incoherence.cols(), tokens = 3;
    const std::vector<float> w = GaussianValues(rows * cols, 2);
    const std::vector<float> x = GaussianValues(tokens * cols, 3);
    std::vector<float> w_transformed = w, x_transformed = x, y;
    incoherence.TransformWeights(absl::MakeSpan(w_transformed), team);
    incoherence.TransformInputs(absl::MakeSpan(x_transformed), team);
    for (size_t t = 0; t < tokens; ++t) {
      const auto token = x_transformed.begin() + t * cols;
      const std::vector<float> one = Product(w_transformed, {token, token + cols}, rows);
      y.insert(y.end(), one.begin(), one.end());
    }
    incoherence.RestoreOutputs(absl::MakeSpan(y), team);
    const double tolerance = 2e-6 * std::sqrt(static_cast<double>(cols)) + 1e-5;
    for (size_t t = 0; t < tokens; ++t) {
      const auto token = x.begin() + t * cols;
      const std::vector<float> expected = Product(w, {token, token + cols}, rows);
      for (size_t r = 0; r < rows; ++r) ASSERT_NEAR(y[t * rows + r], expected[r], tolerance) << r;
    }
  });
}

TEST(Incoherence, TheHessianFormIsInvariant) {
  ThreadTeam team(2);
  ForEachCase([&](const Incoherence& incoherence) {
    const size_t cols = incoherence.cols();
    const std::vector<double> samples = GaussianValues<double>(4 * cols, 4);
    std::vector<double> h(cols * cols);
    for (size_t i = 0; i < cols; ++i) {
      for (size_t j = 0; j < cols; ++j) {
        for (size_t s = 0; s < 4; ++s)
          h[i * cols + j] += samples[s * cols + i] * samples[s * cols + j];
      }
    }
    const auto form = [&](const std::vector<float>& v) {
      double sum = 0;
      for (size_t i = 0; i < cols; ++i) {
        for (size_t j = 0; j < cols; ++j) sum += h[i * cols + j] * v[i] * v[j];
      }
      return sum;
    };
    std::vector<float> x = GaussianValues(cols, 5);
    const double before = form(x);
    incoherence.TransformHessian(absl::MakeSpan(h), team);
    incoherence.TransformInputs(absl::MakeSpan(x), team);
    EXPECT_NEAR(form(x), before, 1e-5 * before + 1e-9);
    for (size_t i = 0; i < cols; ++i) {
      for (size_t j = 0; j < i; ++j) ASSERT_EQ(h[i * cols + j], h[j * cols + i]) << i << ", " << j;
    }
  });
}

// One weight of 10^4 among small ones is spread so that no entry stands out: for a matrix with
// entries like N(0, 1) the largest of 110592 is about 4.5 (QuIP#, lemma 3.1 bounds it).
TEST(Incoherence, AnOutlierIsSpreadEvenly) {
  ThreadTeam team(1);
  const size_t rows = 192, cols = 576;
  const Incoherence incoherence(rows, cols, {.input_seed = 1, .output_seed = 2});
  std::vector<float> w = GaussianValues(rows * cols, 6);
  w[100 * cols + 100] = 1e4f;
  const double energy = RootMeanSquare(w);
  EXPECT_GT(LargestMagnitude(w) / energy, 300);
  incoherence.TransformWeights(absl::MakeSpan(w), team);
  EXPECT_NEAR(RootMeanSquare(w) / energy, 1, 1e-4);
  EXPECT_LT(LargestMagnitude(w) / energy, 1.3);  // a lone outlier becomes +-constant, plus noise
}

TEST(Incoherence, OutlierColumnsAndRowsBecomeNearGaussian) {
  ThreadTeam team(1);
  const size_t rows = 192, cols = 576;
  std::vector<float> w = GaussianValues(rows * cols, 7);
  for (size_t r = 0; r < rows; ++r) w[r * cols + 33] *= 50;
  for (size_t c = 0; c < cols; ++c) w[64 * cols + c] *= 50;
  const double energy = RootMeanSquare(w);
  EXPECT_GT(LargestMagnitude(w) / energy, 30);
  const Incoherence incoherence(rows, cols, {.input_seed = 1, .output_seed = 2});
  incoherence.TransformWeights(absl::MakeSpan(w), team);
  EXPECT_LT(LargestMagnitude(w) / energy, 6);
  double fourth = 0;
  for (const float v : w) fourth += std::pow(v / energy, 4);
  EXPECT_NEAR(fourth / static_cast<double>(w.size()), 3, 0.5);  // a Gaussian's kurtosis
}

TEST(Incoherence, AConstantMatrixIsSpreadToo) {
  // Without signs the first entry would get all the energy: its magnitude 110592 / sqrt(110592).
  ThreadTeam team(1);
  std::vector<float> w(192 * 576, 1.0f);
  const Incoherence incoherence(192, 576, {.input_seed = 1, .output_seed = 2});
  incoherence.TransformWeights(absl::MakeSpan(w), team);
  EXPECT_LT(LargestMagnitude(w), 25);  // the product of two near Gaussian vectors
}

TEST(Incoherence, LayersWithOneInputSeedShareTheInputSide) {
  ThreadTeam team(1);
  const Incoherence q(192, 576, {.input_seed = 9, .output_seed = 1});
  const Incoherence k(64, 576, {.input_seed = 9, .output_seed = 2});
  std::vector<float> x = GaussianValues(576, 8), y = x;
  q.TransformInputs(absl::MakeSpan(x), team);
  k.TransformInputs(absl::MakeSpan(y), team);
  EXPECT_EQ(x, y);
}

TEST(Incoherence, SidesFollowTheKind) {
  const Incoherence none(4, 8, {.kind = IncoherenceKind::kNone});
  EXPECT_EQ(none.input(), nullptr);
  EXPECT_EQ(none.output(), nullptr);
  const Incoherence input(4, 8, {.kind = IncoherenceKind::kInput});
  ASSERT_NE(input.input(), nullptr);
  EXPECT_EQ(input.input()->size(), 8);
  EXPECT_EQ(input.output(), nullptr);
  const Incoherence both(4, 8, {});
  ASSERT_NE(both.output(), nullptr);
  EXPECT_EQ(both.output()->size(), 4);
}

TEST(Incoherence, ZerosStayZeros) {
  ThreadTeam team(1);
  std::vector<float> w(100 * 576);
  Incoherence(100, 576, {}).TransformWeights(absl::MakeSpan(w), team);
  EXPECT_THAT(w, Each(0.0f));
}

TEST(Incoherence, EverySimdTargetAndTeamGivesTheSameBits) {
  for (const HadamardBlocks blocks : kBlocks) {
    const Incoherence incoherence(172, 576, {.blocks = blocks, .input_seed = 3, .output_seed = 4});
    const std::vector<float> w = GaussianValues(172 * 576, 9);
    std::vector<double> h = GaussianValues<double>(576 * 576, 10);
    for (size_t i = 0; i < 576; ++i) {
      for (size_t j = 0; j < i; ++j) h[i * 576 + j] = h[j * 576 + i];
    }
    std::vector<float> first;
    std::vector<double> first_h;
    for (const int threads : {1, 2}) {
      ThreadTeam team(threads);
      OnEverySimdTarget([&](const char* target) {
        std::vector<float> transformed = w;
        std::vector<double> transformed_h = h;
        incoherence.TransformWeights(absl::MakeSpan(transformed), team);
        incoherence.TransformHessian(absl::MakeSpan(transformed_h), team);
        if (first.empty()) {
          first = transformed;
          first_h = transformed_h;
        }
        EXPECT_EQ(transformed, first) << target << ", threads " << threads;
        EXPECT_EQ(transformed_h, first_h) << target << ", threads " << threads;
      });
    }
  }
}

}  // namespace
}  // namespace quantloom
