#include "cli/quality.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quantloom::cli {
namespace {

TEST(QualityTest, Summarize_TakesThe99thPercentileOfAllPositions) {
  // 200 positions: KL 0, 0.01, ... 1.99 in an order of no meaning, over two windows.
  std::vector<v1::EvaluationWindow> windows(2);
  for (int i = 0; i < 200; ++i) windows[i < 50 ? 0 : 1].add_kl((i * 77 % 200) * 0.01);
  windows[0].set_nll_source(100);
  windows[1].set_nll_source(300);
  windows[0].set_nll_packed(500);
  windows[1].set_same_top1(150);
  const v1::QualityMetrics quality = Summarize(windows);
  EXPECT_EQ(quality.scored_tokens(), 200u);
  EXPECT_DOUBLE_EQ(quality.perplexity_source(), std::exp(2.0));
  EXPECT_DOUBLE_EQ(quality.perplexity_packed(), std::exp(2.5));
  EXPECT_NEAR(quality.kl_mean(), 0.995, 1e-12);
  EXPECT_NEAR(quality.kl_p99(), 1.98, 1e-12);  // two of 200 are as large or larger
  EXPECT_DOUBLE_EQ(quality.top1_agreement(), 0.75);
}

TEST(QualityTest, Summarize_OfNothingIsNothing) {
  EXPECT_EQ(Summarize({}).scored_tokens(), 0u);
  EXPECT_EQ(Summarize({}).kl_p99(), 0);
}

}  // namespace
}  // namespace quantloom::cli
