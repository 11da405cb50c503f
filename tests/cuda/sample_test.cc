// Tokens chosen on the device are those that the host chooses, to the bit.
#include "kernels/cuda/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/random.h"
#include "engine/token_choice.h"

namespace quantloom::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Logits = std::vector<float>;

Logits Normal(uint32_t cols, float deviation, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  Logits logits(cols);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// Rows of `cols` logits, plain and awkward ones.
std::vector<Logits> Rows(uint32_t cols) {
  std::vector<Logits> rows = {Normal(cols, 3, 1), Normal(cols, 0.01f, 2), Normal(cols, 40, 3)};
  rows.emplace_back(cols, 1.5f);  // all equal
  Logits few = Normal(cols, 2, 4);
  for (float& logit : few) logit = std::round(logit);
  rows.push_back(few);
  Logits close(cols);  // neighbours among floats
  for (uint32_t i = 0; i < cols; ++i) {
    close[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(7.0f) + i * 7 % 11);
  }
  rows.push_back(close);
  Logits holes = few;
  for (uint32_t i = 0; i < cols; i += 3) holes[i] = i % 2 == 0 ? kNan : -kInfinity;
  rows.push_back(holes);
  rows.emplace_back(cols, kNan);
  rows.emplace_back(cols, -kInfinity);
  Logits least(cols, kNan);
  least[cols / 2] = -kInfinity;
  rows.push_back(least);
  Logits infinite = few;
  infinite[cols / 3] = infinite[cols - 1] = kInfinity;
  rows.push_back(infinite);
  Logits zeros(cols, 0.0f);
  for (uint32_t i = 0; i < cols; i += 2) zeros[i] = -0.0f;
  rows.push_back(zeros);
  Logits huge(cols, -std::numeric_limits<float>::max());
  huge[cols - 1] = std::numeric_limits<float>::max();
  rows.push_back(huge);
  return rows;
}

// What the device chooses of each row by its choice; rows without one are the host's.
std::vector<SampledToken> OnDevice(std::vector<Logits>& rows,
                                   const std::vector<const TokenChoice*>& choices) {
  const auto cols = static_cast<uint32_t>(rows[0].size());
  std::vector<float> logits;
  std::vector<SampleParameters> parameters;
  std::vector<SampleEdit> edits;
  for (size_t i = 0; i < rows.size(); ++i) {
    logits.insert(logits.end(), rows[i].begin(), rows[i].end());
    if (choices[i] == nullptr) {
      parameters.push_back({.temperature = -1});
      continue;
    }
    const TokenChoice& choice = *choices[i];
    parameters.push_back({.random = choice.random,
                          .top_p = TopPShare(choice.top_p),
                          .temperature = choice.temperature,
                          .min_p = choice.min_p,
                          .top_k = static_cast<uint32_t>(choice.top_k),
                          .first_edit = static_cast<uint32_t>(edits.size()),
                          .edits = static_cast<uint32_t>(choice.edits.size())});
    for (const LogitEdit& edit : choice.edits) edits.push_back({edit.token, edit.addend});
  }
  std::vector<SampledToken> chosen(rows.size(), {-7, 0});
  const char* const error = SampleTokens(logits.data(), static_cast<uint32_t>(rows.size()), cols,
                                         parameters.data(), edits.data(), chosen.data(), Stream());
  EXPECT_EQ(error, nullptr) << error;
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].assign(logits.begin() + i * cols, logits.begin() + (i + 1) * cols);
  }
  return chosen;
}

void ExpectSame(std::vector<Logits> rows, const std::vector<TokenChoice>& choices) {
  std::vector<Logits> on_device = rows;
  std::vector<const TokenChoice*> pointers;
  for (const TokenChoice& choice : choices) pointers.push_back(&choice);
  const std::vector<SampledToken> chosen = OnDevice(on_device, pointers);
  for (size_t i = 0; i < rows.size(); ++i) {
    const ChosenToken expected = ChooseToken(absl::MakeSpan(rows[i]), choices[i]);
    EXPECT_EQ(chosen[i].token, expected.token) << "row " << i;
    EXPECT_EQ(std::bit_cast<uint32_t>(chosen[i].logit), std::bit_cast<uint32_t>(expected.logit))
        << "row " << i;
  }
}

struct ChoiceCase {
  const char* name;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
};

class SampleTokensTest : public ::testing::TestWithParam<ChoiceCase> {};

TEST_P(SampleTokensTest, ChoosesWhatTheHostDoes) {
  const ChoiceCase& test = GetParam();
  // Below, at and beyond a warp, a block's threads and its bins.
  for (const uint32_t cols : {1u, 31u, 513u, 2100u}) {
    SCOPED_TRACE(cols);
    const std::vector<Logits> rows = Rows(cols);
    for (const uint64_t draw : {0u, 1u}) {
      std::vector<TokenChoice> choices;
      for (size_t i = 0; i < rows.size(); ++i) {
        choices.push_back({.temperature = test.temperature,
                           .top_k = test.top_k,
                           .top_p = test.top_p,
                           .min_p = test.min_p,
                           .random = draw == 1 ? UINT64_MAX : UniformBits(i, draw)});
      }
      ExpectSame(rows, choices);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Choices, SampleTokensTest,
    ::testing::Values(ChoiceCase{"Greedy", 0, 0, 1, 0}, ChoiceCase{"Plain", 1, 0, 1, 0},
                      ChoiceCase{"Hot", 30, 0, 1, 0}, ChoiceCase{"Cold", 0.05f, 0, 1, 0},
                      ChoiceCase{"Coldest", std::numeric_limits<float>::denorm_min(), 0, 1, 0},
                      ChoiceCase{"Hottest", std::numeric_limits<float>::max(), 7, 0.5f, 0},
                      ChoiceCase{"TopK", 1, 40, 1, 0}, ChoiceCase{"TopKOne", 1, 1, 1, 0},
                      ChoiceCase{"TopKAlmostAll", 2, 2099, 1, 0},
                      ChoiceCase{"TopP", 0.8f, 0, 0.9f, 0},
                      ChoiceCase{"TopPLeast", 1, 0, std::numeric_limits<float>::denorm_min(), 0},
                      ChoiceCase{"TopPAlmostAll", 1, 0, std::nextafter(1.0f, 0.0f), 0},
                      ChoiceCase{"MinP", 1, 0, 1, 0.05f}, ChoiceCase{"MinPOne", 1, 0, 1, 1},
                      ChoiceCase{"Everything", 0.7f, 50, 0.95f, 0.02f}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(SampleTokens, DrawsFollowTheMassesInTheOrderOfTokens) {
  // exp of these is 1, 1/2, 1/4 to a few units in the last place.
  const Logits row = {-std::log(2.0f), 0, kNan, -2 * std::log(2.0f)};
  const std::vector<std::pair<double, int32_t>> draws = {{0.0, 0},   {0.2856, 0}, {0.2858, 1},
                                                         {0.857, 1}, {0.8572, 3}, {0.9999, 3}};
  std::vector<TokenChoice> choices;
  std::vector<const TokenChoice*> pointers;
  std::vector<Logits> rows(draws.size(), row);
  for (const auto& [uniform, token] : draws) {
    choices.push_back({.temperature = 1, .random = static_cast<uint64_t>(uniform * 0x1p64)});
  }
  for (const TokenChoice& choice : choices) pointers.push_back(&choice);
  const std::vector<SampledToken> chosen = OnDevice(rows, pointers);
  for (size_t i = 0; i < draws.size(); ++i) EXPECT_EQ(chosen[i].token, draws[i].second) << i;
}

TEST(SampleTokens, EditsRowsThatItChoosesFromAndLeavesOthersAlone) {
  const Logits row = {1, 5, 2, kInfinity, 4, kNan};
  const std::vector<LogitEdit> biases = {{0, 100.0f}, {3, -kInfinity}};
  const std::vector<LogitEdit> bans = {{1, -kInfinity}, {3, -kInfinity}, {5, -kInfinity}};
  const TokenChoice biased = {.edits = biases};
  const TokenChoice banned = {.edits = bans};
  std::vector<Logits> rows(3, row);
  const std::vector<SampledToken> chosen = OnDevice(rows, {&biased, nullptr, &banned});
  EXPECT_EQ(chosen[0].token, 0);
  EXPECT_EQ(chosen[0].logit, 101.0f);
  EXPECT_EQ(chosen[1].token, -7);
  EXPECT_EQ(chosen[2].token, 4);
  EXPECT_EQ(rows[0][3], -kInfinity);
  EXPECT_EQ(rows[1][3], kInfinity);
  EXPECT_EQ(rows[2][5], -kInfinity);
}

TEST(SampleTokens, RefusesMoreEntriesThanMassesHaveRoomFor) {
  EXPECT_NE(SampleTokens(nullptr, 1, kMaxSampledEntries + 1, nullptr, nullptr, nullptr, Stream()),
            nullptr);
}

}  // namespace
}  // namespace quantloom::cuda
