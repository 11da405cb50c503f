#include "engine/quantize/evaluation.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/reference_model.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kWindow = 80;  // 40 scored positions: more than are held in memory at a time

// Two models of the same vocabulary with unrelated weights stand for source and packed model.
class ModelComparisonTest : public ::testing::Test {
 protected:
  std::shared_ptr<const LoadedModel> Load(uint64_t seed, const ModelConfig& config) {
    const std::filesystem::path path = directory_.path() / std::to_string(seed);
    testing::WriteTinyModel(path, seed, config);
    return LoadedModel::LoadSource(path, team_).value();
  }
  std::vector<int32_t> Tokens(size_t count) const {
    std::vector<int32_t> tokens(count);
    for (size_t i = 0; i < count; ++i) {
      tokens[i] = static_cast<int32_t>(i * i * 31 + i * 7) % vocabulary_;
    }
    return tokens;
  }

  testing::TemporaryDirectory directory_;
  ThreadTeam team_{2};
  const int32_t vocabulary_ = static_cast<int32_t>(testing::TinyConfig().vocab_size);
  std::shared_ptr<const LoadedModel> source_ = Load(1, testing::TinyConfig());
  std::shared_ptr<const LoadedModel> packed_ = Load(2, testing::TinyConfig());
};

// log softmax of logits.
std::vector<double> LogProbabilities(const std::vector<double>& logits) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  std::vector<double> result;
  for (const double logit : logits) result.push_back(logit - std::log(sum));
  return result;
}

TEST_F(ModelComparisonTest, Window_HasTheFiguresOfAnIndependentForwardPass) {
  const std::vector<int32_t> window = Tokens(kWindow);
  auto comparison = ModelComparison::Create(*source_, *packed_, kWindow, team_).value();
  const WindowMetrics metrics = comparison->Compare(window).value();

  const auto logits = [&](uint64_t seed) {
    const ModelConfig config = testing::TinyConfig();
    return testing::ReferenceLogits(config, testing::TinyWeights(config, seed), window);
  };
  const auto source = logits(1), packed = logits(2);
  double nll_source = 0, nll_packed = 0;
  uint32_t same = 0;
  ASSERT_EQ(metrics.kl.size(), kWindow / 2);
  for (size_t target = kWindow / 2; target < kWindow; ++target) {
    const std::vector<double> p = LogProbabilities(source[target - 1]);
    const std::vector<double> q = LogProbabilities(packed[target - 1]);
    nll_source -= p[window[target]];
    nll_packed -= q[window[target]];
    double kl = 0;
    for (size_t token = 0; token < p.size(); ++token) {
      kl += std::exp(p[token]) * (p[token] - q[token]);
    }
    // The packed model's cache is rounded to 16 bits.
    EXPECT_NEAR(metrics.kl[target - kWindow / 2], kl, 2e-3 * kl) << target;
    same += std::max_element(p.begin(), p.end()) - p.begin() ==
                    std::max_element(q.begin(), q.end()) - q.begin()
                ? 1
                : 0;
  }
  EXPECT_NEAR(metrics.nll_source, nll_source, 1e-4 * nll_source);
  EXPECT_NEAR(metrics.nll_packed, nll_packed, 1e-3 * nll_packed);
  EXPECT_EQ(metrics.same_top1, same);
}

TEST_F(ModelComparisonTest, Windows_DoNotDependOnThoseBefore) {
  const std::vector<int32_t> tokens = Tokens(3 * kWindow);
  const auto window = [&](size_t i) {
    return absl::MakeConstSpan(tokens).subspan(i * kWindow, kWindow);
  };
  auto comparison = ModelComparison::Create(*source_, *packed_, kWindow, team_).value();
  std::vector<WindowMetrics> all;
  for (const size_t i : {0, 1, 2}) all.push_back(comparison->Compare(window(i)).value());
  auto resumed = ModelComparison::Create(*source_, *packed_, kWindow, team_).value();
  const WindowMetrics last = resumed->Compare(window(2)).value();
  EXPECT_EQ(last.kl, all[2].kl);
  EXPECT_EQ(last.nll_source, all[2].nll_source);
  EXPECT_EQ(last.nll_packed, all[2].nll_packed);
  EXPECT_NE(last.kl, all[1].kl);

  // The report's figures are the windows' together, those left over at the end not among them.
  const std::vector<int32_t> longer = Tokens(3 * kWindow + kWindow / 2);
  const auto report = CompareModels(*source_, *packed_, longer, 0, kWindow, team_, [](double) {
                        return absl::OkStatus();
                      }).value();
  const QualityMetrics sum = Summarize(all);
  EXPECT_EQ(report.scored_tokens, 3 * kWindow / 2);
  EXPECT_EQ(report.perplexity_source, sum.perplexity_source);
  EXPECT_EQ(report.perplexity_packed, sum.perplexity_packed);
  EXPECT_EQ(report.kl_mean, sum.kl_mean);
  EXPECT_EQ(report.kl_p99, sum.kl_p99);
  EXPECT_EQ(report.top1_agreement, sum.top1_agreement);
}

TEST_F(ModelComparisonTest, AModelAgreesWithItself) {
  // Both sides but for the cache's type.
  auto comparison = ModelComparison::Create(*source_, *source_, kWindow, team_).value();
  const WindowMetrics metrics = comparison->Compare(Tokens(kWindow)).value();
  for (const double kl : metrics.kl) EXPECT_LT(kl, 1e-4);
  EXPECT_EQ(metrics.same_top1, kWindow / 2);
}

TEST_F(ModelComparisonTest, DifferentVocabulariesAreRefused) {
  ModelConfig config = testing::TinyConfig();
  config.vocab_size += 8;
  const auto larger = Load(3, config);
  const absl::Status status = ModelComparison::Create(*source_, *larger, kWindow, team_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vocabulary"));
}

TEST_F(ModelComparisonTest, AWindowOfAnotherLengthIsRefused) {
  auto comparison = ModelComparison::Create(*source_, *packed_, kWindow, team_).value();
  for (const size_t count : {kWindow - 1, kWindow + 1}) {
    EXPECT_EQ(comparison->Compare(Tokens(count)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(SummarizeTest, Figures_AreOverAllScoredPositions) {
  // 200 positions in two windows of unequal weight: KL 0, 0.01, ... 1.99 in an order of no meaning.
  std::vector<WindowMetrics> windows(2);
  for (int i = 0; i < 200; ++i) windows[i < 50 ? 0 : 1].kl.push_back((i * 77 % 200) * 0.01);
  windows[0].nll_source = 100;
  windows[1].nll_source = 300;
  windows[0].nll_packed = 500;
  windows[0].same_top1 = 50;
  windows[1].same_top1 = 100;
  const QualityMetrics metrics = Summarize(windows);
  EXPECT_EQ(metrics.scored_tokens, 200u);
  EXPECT_DOUBLE_EQ(metrics.perplexity_source, std::exp(2.0));
  EXPECT_DOUBLE_EQ(metrics.perplexity_packed, std::exp(2.5));
  EXPECT_NEAR(metrics.kl_mean, 0.995, 1e-12);
  EXPECT_NEAR(metrics.kl_p99, 1.98, 1e-12);  // two of 200 are as large or larger
  EXPECT_DOUBLE_EQ(metrics.top1_agreement, 0.75);
}

TEST(EvaluationWindowsTest, AreResolvedAndCounted) {
  EXPECT_EQ(*ResolveWindowTokens(0, 2048), 512u);
  EXPECT_EQ(*ResolveWindowTokens(0, 100), 100u);
  EXPECT_EQ(*ResolveWindowTokens(16, 100), 16u);
  EXPECT_EQ(*ResolveWindowTokens(100, 100), 100u);
  EXPECT_EQ(ResolveWindowTokens(15, 100).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ResolveWindowTokens(101, 100).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*CountWindows(1023, 0, 512), 1u);
  EXPECT_EQ(*CountWindows(5120, 3, 512), 3u);
  EXPECT_EQ(*CountWindows(5120, 40, 512), 10u);
  EXPECT_EQ(CountWindows(511, 0, 512).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantloom
