#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantloom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> RandomLogits(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The distribution that the documentation defines, computed the plain way: in double, by sorting.
std::map<int32_t, double> ExpectedDistribution(const std::vector<float>& logits,
                                               const SamplingParams& params) {
  struct Entry {
    int32_t token;
    double p;
  };
  std::vector<Entry> entries;
  for (size_t i = 0; i < logits.size(); ++i)
    entries.push_back({static_cast<int32_t>(i), std::exp(logits[i] / params.temperature)});
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.p > b.p; });
  const auto normalize = [&] {
    double total = 0;
    for (const Entry& entry : entries) total += entry.p;
    for (Entry& entry : entries) entry.p /= total;
  };
  if (params.top_k > 0) entries.resize(std::min<size_t>(entries.size(), params.top_k));
  normalize();
  size_t keep = 0;
  for (double mass = 0; keep < entries.size() && mass < params.top_p; ++keep)
    mass += entries[keep].p;
  entries.resize(keep);
  while (entries.back().p < params.min_p * entries.front().p) entries.pop_back();
  normalize();
  std::map<int32_t, double> distribution;
  for (const Entry& entry : entries) distribution[entry.token] = entry.p;
  return distribution;
}

struct DistributionCase {
  const char* name;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
};

class SamplerDistribution : public ::testing::TestWithParam<DistributionCase> {};

TEST_P(SamplerDistribution, DrawsFollowTheDefinition) {
  const std::vector<float> logits = RandomLogits(50, 7);
  SamplingParams params;
  params.temperature = GetParam().temperature;
  params.top_k = GetParam().top_k;
  params.top_p = GetParam().top_p;
  params.min_p = GetParam().min_p;
  params.seed = 12345;
  const std::map<int32_t, double> expected = ExpectedDistribution(logits, params);

  Sampler sampler(params, {});
  constexpr int kDraws = 20000;
  std::map<int32_t, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.Sample(logits)];

  double chi_square = 0;
  double rare_expected = 0;  // cells too small for the test are taken together
  double rare_counted = 0;
  int cells = 0;
  for (const auto& [token, p] : expected) {
    const double mean = p * kDraws;
    const double counted = counts[token];
    if (mean < 10) {
      rare_expected += mean;
      rare_counted += counted;
      continue;
    }
    chi_square += (counted - mean) * (counted - mean) / mean;
    ++cells;
  }
  if (rare_expected >= 10) {
    chi_square += (rare_counted - rare_expected) * (rare_counted - rare_expected) / rare_expected;
    ++cells;
  }
  for (const auto& [token, count] : counts)
    EXPECT_TRUE(count == 0 || expected.count(token) == 1) << "token " << token << " was cut off";
  // Mean cells - 1, standard deviation sqrt(2 (cells - 1)); the seed is fixed, so this either holds
  // or does not.
  EXPECT_LT(chi_square, cells - 1 + 4 * std::sqrt(2.0 * std::max(cells - 1, 1)));
}

INSTANTIATE_TEST_SUITE_P(
    , SamplerDistribution,
    ::testing::Values(DistributionCase{"Plain", 1.0f, 0, 1.0f, 0.0f},
                      DistributionCase{"Hot", 1.7f, 0, 1.0f, 0.0f},
                      DistributionCase{"Cold", 0.4f, 0, 1.0f, 0.0f},
                      DistributionCase{"TopK", 1.0f, 5, 1.0f, 0.0f},
                      DistributionCase{"TopKOne", 1.0f, 1, 1.0f, 0.0f},
                      DistributionCase{"TopP", 1.0f, 0, 0.7f, 0.0f},
                      DistributionCase{"MinP", 1.0f, 0, 1.0f, 0.1f},
                      DistributionCase{"Everything", 0.8f, 20, 0.9f, 0.05f},
                      // top-p counts the mass of what top-k left, not of the whole vocabulary.
                      DistributionCase{"TopPOfTopK", 1.5f, 4, 0.8f, 0.0f}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Sampler, GreedyTakesTheLargestLogitAndTheLowestIdAmongEquals) {
  Sampler sampler(SamplingParams{}, {});
  EXPECT_EQ(sampler.Sample(std::vector<float>{0, 3, 1, 3}), 1);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-5, -kInfinity, -4}), 2);
}

TEST(Sampler, NeverPicksNan) {
  for (float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    Sampler sampler(params, {});
    EXPECT_EQ(sampler.Sample(std::vector<float>{kNan, 1, kNan}), 1);
  }
}

TEST(Sampler, TheSmallestTemperatureIsGreedy) {
  SamplingParams params;
  params.temperature = std::numeric_limits<float>::denorm_min();
  Sampler sampler(params, {});
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 2, 1.9999999f}), 1);
}

TEST(Sampler, TheSameSeedDrawsTheSameTokens) {
  const std::vector<float> logits = RandomLogits(200, 3);
  SamplingParams params;
  params.temperature = 1;
  params.seed = 99;
  Sampler first(params, {});
  Sampler second(params, {});
  params.seed = 100;
  Sampler other(params, {});
  int differing = 0;
  for (int i = 0; i < 100; ++i) {
    const int32_t token = first.Sample(logits);
    EXPECT_EQ(token, second.Sample(logits));
    if (token != other.Sample(logits)) ++differing;
  }
  EXPECT_GT(differing, 50);
}

TEST(Sampler, LogitBiasIsAdded) {
  SamplingParams params;
  params.logit_bias = {{0, 2.5f}, {1, -100.0f}};
  Sampler sampler(params, {});
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 9, 3}), 0);
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOfSeenTokens) {
  SamplingParams params;
  params.repetition_penalty = 2;
  const std::vector<int32_t> prompt = {0, 0, 2};
  // 0: 5 -> 2.5 (once, however often it occurs), 2: -1 -> -2.
  EXPECT_EQ(Sampler(params, prompt).Sample(std::vector<float>{5, 2.6f, -1}), 1);
  EXPECT_EQ(Sampler(params, prompt).Sample(std::vector<float>{5, 2.4f, -1}), 0);
  EXPECT_EQ(Sampler(params, prompt).Sample(std::vector<float>{-5, -1.9f, -1}), 1);
  EXPECT_EQ(Sampler(params, prompt).Sample(std::vector<float>{-5, -2.1f, -1}), 2);
}

TEST(Sampler, RepetitionPenaltyCoversGeneratedTokens) {
  SamplingParams params;
  params.repetition_penalty = 2;
  Sampler sampler(params, {});
  const std::vector<float> logits = {5, 4, 1};
  EXPECT_EQ(sampler.Sample(logits), 0);
  EXPECT_EQ(sampler.Sample(logits), 1);
}

TEST(Sampler, PresenceAndFrequencyPenaltiesCountGeneratedTokensOnly) {
  SamplingParams params;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.25f;
  Sampler sampler(params, std::vector<int32_t>{0, 0, 0});
  const std::vector<float> logits = {5, 4.1f, 4.0f};
  EXPECT_EQ(sampler.Sample(logits), 0);  // 5: the prompt does not count
  EXPECT_EQ(sampler.Sample(logits), 0);  // 5 - 0.5 - 0.25 = 4.25
  EXPECT_EQ(sampler.Sample(logits), 1);  // 5 - 0.5 - 0.50 = 4.0 against 4.1
}

struct InvalidCase {
  const char* field;
  void (*break_it)(SamplingParams&);
};

TEST(SamplingParams, ValidateNamesTheFieldThatIsWrong) {
  const InvalidCase cases[] = {
      {"temperature", [](SamplingParams& p) { p.temperature = kNan; }},
      {"temperature", [](SamplingParams& p) { p.temperature = -0.1f; }},
      {"temperature", [](SamplingParams& p) { p.temperature = kInfinity; }},
      {"top_k", [](SamplingParams& p) { p.top_k = -1; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 0; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 1.01f; }},
      {"top_p", [](SamplingParams& p) { p.top_p = kNan; }},
      {"min_p", [](SamplingParams& p) { p.min_p = -0.01f; }},
      {"min_p", [](SamplingParams& p) { p.min_p = kNan; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = 0; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = kInfinity; }},
      {"presence_penalty", [](SamplingParams& p) { p.presence_penalty = 2.1f; }},
      {"frequency_penalty", [](SamplingParams& p) { p.frequency_penalty = kNan; }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{10, 0.0f}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{-1, 0.0f}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{1, 101.0f}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{1, kNan}};
       }},
  };
  EXPECT_TRUE(SamplingParams{}.Validate(10).ok());
  for (const InvalidCase& test : cases) {
    SamplingParams params;
    test.break_it(params);
    const absl::Status status = params.Validate(10);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << test.field;
    EXPECT_THAT(std::string(status.message()),
                ::testing::StartsWith(std::string(test.field) + ": "));
  }
}

TEST(TopLogprobs, AreTheMostLikelyTokensInOrderTiesById) {
  const std::vector<float> logits = {1, 3, 2, 3, kNan, -kInfinity};
  const std::vector<TokenLogprob> top = TopLogprobs({logits.data(), 4}, 3);
  const double total = std::log(std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0));
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].token, 1);
  EXPECT_EQ(top[1].token, 3);
  EXPECT_EQ(top[2].token, 2);
  EXPECT_NEAR(top[0].logprob, 3 - total, 1e-6);
  EXPECT_NEAR(top[2].logprob, 2 - total, 1e-6);
  EXPECT_NEAR(LogprobOf({logits.data(), 4}, 0), 1 - total, 1e-6);
  EXPECT_EQ(TopLogprobs(logits, 100).size(), logits.size());
}

TEST(Sampler, NeverPicksWhatIsBannedWhateverItsBias) {
  const std::vector<float> logits = {1, 5, 2, 4};
  SamplingParams params;
  params.logit_bias = {{1, 100.0f}};
  EXPECT_EQ(Sampler(params, {}).Sample(logits), 1);
  EXPECT_EQ(Sampler(params, {}).Sample(logits, {1}), 3);
  params.temperature = 2;
  Sampler drawing(params, {});
  for (int i = 0; i < 100; ++i) {
    const int32_t token = drawing.Sample(logits, {1, 3});
    EXPECT_TRUE(token == 0 || token == 2) << token;
  }
  EXPECT_EQ(drawing.Sample(logits), 1) << "a ban holds for one draw";
}

TEST(Sampler, AChoiceForTheDeviceIsWhatSampleWouldTake) {
  SamplingParams params;
  params.temperature = 1.2f;
  params.top_k = 100;
  params.top_p = 0.95f;
  params.seed = 4;
  params.logit_bias = {{3, 2.0f}, {8, -5.0f}};
  Sampler here(params, {});
  Sampler there(params, {});
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = RandomLogits(300, i);
    const std::vector<int32_t> banned =
        i % 2 == 0 ? std::vector<int32_t>{3, 9, 9, 200} : std::vector<int32_t>();
    const int32_t expected = here.Sample(logits, banned);
    std::vector<float> row = logits;
    const std::optional<TokenChoice> choice = there.Choose(banned);
    ASSERT_TRUE(choice.has_value());
    EXPECT_EQ(ChooseToken(absl::MakeSpan(row), *choice).token, expected) << i;
  }
}

TEST(Sampler, ChoicesForTheDeviceAreNotForWhatDependsOnTheTextOrEditsManyLogits) {
  const std::vector<float> logits = RandomLogits(1000, 1);
  std::vector<int32_t> many(kMaxLogitEdits + 1);
  std::iota(many.begin(), many.end(), 0);
  SamplingParams plain;
  plain.temperature = 1;
  Sampler sampler(plain, {});
  EXPECT_FALSE(sampler.Choose(many).has_value());
  EXPECT_EQ(sampler.Sample(logits), Sampler(plain, {}).Sample(logits)) << "a draw was taken";
  for (void (*const penalize)(SamplingParams&) :
       {+[](SamplingParams& p) { p.repetition_penalty = 1.1f; },
        +[](SamplingParams& p) { p.presence_penalty = 0.1f; },
        +[](SamplingParams& p) { p.frequency_penalty = 0.1f; }}) {
    SamplingParams params = plain;
    penalize(params);
    EXPECT_FALSE(Sampler(params, {}).Choose().has_value());
  }
}

}  // namespace
}  // namespace quantloom
