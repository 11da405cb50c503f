#include "cli/score_windows.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quantloom::cli {
namespace {

using ::quantloom::v1::ScoreResponse;

TEST(ScoreWindowsTest, Split_TakesWholeWindowsOnly) {
  struct Case {
    size_t tokens, window, limit, count;
  };
  for (const Case& c : {Case{512, 512, 0, 1}, Case{1023, 512, 0, 1}, Case{1024, 512, 0, 2},
                        Case{5120, 512, 3, 3}, Case{5120, 512, 40, 10}, Case{7, 3, 0, 2}}) {
    const auto windows = ScoreWindows::Split(c.tokens, c.window, c.limit);
    ASSERT_TRUE(windows.ok());
    EXPECT_EQ(windows->count, c.count) << c.tokens;
  }
}

TEST(ScoreWindowsTest, Split_RejectsATextShorterThanAWindow) {
  const auto windows = ScoreWindows::Split(511, 512, 0);
  EXPECT_EQ(windows.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ScoreWindows::Split(10, 1, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ScoreWindowsTest, SecondHalf_IsScored) {
  const auto even = *ScoreWindows::Split(1024, 512, 0);
  EXPECT_EQ(even.first_scored(), 256u);
  EXPECT_EQ(even.scored_per_window(), 256u);
  EXPECT_EQ(even.Begin(1), 512u);
  const auto odd = *ScoreWindows::Split(10, 5, 0);
  EXPECT_EQ(odd.first_scored(), 2u);
  EXPECT_EQ(odd.scored_per_window(), 3u);
}

ScoreResponse Response(const std::vector<float>& logprobs) {
  ScoreResponse response;
  response.add_tokens();  // the first token has none
  for (const float logprob : logprobs) response.add_tokens()->set_logprob(logprob);
  return response;
}

TEST(PerplexityTest, Add_CountsTheSecondHalfAlone) {
  const auto windows = *ScoreWindows::Split(8, 4, 0);
  Perplexity perplexity;
  ASSERT_TRUE(perplexity.Add(windows, Response({-100, -1, -2})).ok());
  ASSERT_TRUE(perplexity.Add(windows, Response({-100, -3, -2})).ok());
  EXPECT_EQ(perplexity.tokens(), 4u);
  EXPECT_DOUBLE_EQ(perplexity.mean(), 2.0);
  EXPECT_DOUBLE_EQ(perplexity.perplexity(), std::exp(2.0));
  // Losses 1, 2, 3, 2: variance 0.5, standard error of the mean sqrt(0.5 / 3).
  EXPECT_NEAR(perplexity.standard_error(), std::exp(2.0) * std::sqrt(0.5 / 3), 1e-12);
}

TEST(PerplexityTest, Add_RefusesAResponseThatLacksTokens) {
  const auto windows = *ScoreWindows::Split(8, 4, 0);
  Perplexity perplexity;
  EXPECT_EQ(perplexity.Add(windows, Response({-1, -1})).code(), absl::StatusCode::kInternal);
  ScoreResponse hollow = Response({-1, -1, -1});
  hollow.mutable_tokens(3)->clear_logprob();
  EXPECT_EQ(perplexity.Add(windows, hollow).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace quantloom::cli
