#include "cli/load_workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "google/protobuf/util/message_differencer.h"

namespace quantloom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Moments {
  double least = 1e9;
  double most = 0;
  double mean = 0;
  double median = 0;
  double log_deviation = 0;
};

Moments Draws(const std::string& text, int count = 20'000) {
  const auto lengths = LengthDistribution::Parse(text);
  EXPECT_TRUE(lengths.ok()) << lengths.status();
  std::mt19937_64 random(1);
  std::vector<double> values;
  for (int i = 0; i < count; ++i) values.push_back(lengths->Draw(random));
  std::sort(values.begin(), values.end());
  Moments moments{.least = values.front(), .most = values.back(), .median = values[count / 2]};
  double log_mean = 0;
  for (const double value : values) {
    moments.mean += value / count;
    log_mean += std::log(value) / count;
  }
  for (const double value : values) {
    moments.log_deviation += std::pow(std::log(value) - log_mean, 2) / count;
  }
  moments.log_deviation = std::sqrt(moments.log_deviation);
  return moments;
}

TEST(LengthDistributionTest, Draws_HaveTheMomentsThatWereAskedFor) {
  const Moments fixed = Draws("37");
  EXPECT_EQ(fixed.least, 37);
  EXPECT_EQ(fixed.most, 37);

  const Moments uniform = Draws("uniform:10,19");
  EXPECT_EQ(uniform.least, 10);
  EXPECT_EQ(uniform.most, 19);
  EXPECT_NEAR(uniform.mean, 14.5, 0.1);

  const Moments normal = Draws("normal:500,50");
  EXPECT_NEAR(normal.mean, 500, 2);
  EXPECT_NEAR(normal.least, 500 - 3.9 * 50, 50);
  EXPECT_NEAR(normal.most, 500 + 3.9 * 50, 50);

  const Moments lognormal = Draws("lognormal:1000,0.5");
  EXPECT_NEAR(lognormal.median, 1000, 20);
  EXPECT_NEAR(lognormal.log_deviation, 0.5, 0.01);
  // Its mean is exp(deviation^2 / 2) above the median.
  EXPECT_NEAR(lognormal.mean, 1000 * std::exp(0.125), 20);

  EXPECT_EQ(Draws("normal:1,100").least, 1) << "no length below one";
}

TEST(LengthDistributionTest, Parse_RefusesWhatIsNoLength) {
  for (const char* text :
       {"", "0", "-3", "1.5", "x", "2000000", "uniform:", "uniform:5", "uniform:9,5",
        "uniform:1.5,2", "uniform:1,2,3", "normal:0,1", "normal:5,-1", "normal:nan,1",
        "normal:5,inf", "lognormal:5,11", "poisson:5,1", "normal 5,1"}) {
    EXPECT_FALSE(LengthDistribution::Parse(text).ok()) << text;
  }
}

TEST(ParsePromptsTest, Lines_AreInputsOfAllKinds) {
  const auto prompts = ParsePrompts(
      "\"one\"\n\n"
      "{\"prompt\": \"two\", \"max_tokens\": 7, \"other\": 1}\n"
      "{\"prompt_tokens\": [3, 4]}\r\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"five\"}]}");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_EQ(prompts->size(), 4u);
  EXPECT_EQ((*prompts)[0].prompt(), "one");
  EXPECT_EQ((*prompts)[1].prompt(), "two");
  EXPECT_EQ((*prompts)[1].max_tokens(), 7u);
  EXPECT_THAT((*prompts)[2].prompt_tokens().ids(), ElementsAre(3, 4));
  EXPECT_EQ((*prompts)[3].chat().messages(0).content(), "five");
}

TEST(ParsePromptsTest, WrongLine_IsNamed) {
  for (const char* line :
       {"{", "5", "{}", "{\"prompt\": 5}", "{\"prompt\": \"a\", \"prompt_tokens\": [1]}",
        "{\"prompt_tokens\": []}", "{\"prompt_tokens\": [-1]}", "{\"prompt_tokens\": [1.5]}",
        "{\"prompt_tokens\": [4294967296]}", "{\"messages\": []}", "{\"messages\": [5]}",
        "{\"messages\": [{\"role\": \"user\"}]}", "{\"prompt\": \"a\", \"max_tokens\": -1}"}) {
    const auto prompts = ParsePrompts(std::string("\"fine\"\n") + line + "\n");
    ASSERT_FALSE(prompts.ok()) << line;
    EXPECT_THAT(prompts.status().message(), HasSubstr("line 2")) << line;
  }
  EXPECT_FALSE(ParsePrompts("\n\n").ok());
}

Workload::Options RandomOptions() {
  Workload::Options options;
  options.prompt_tokens = *LengthDistribution::Parse("uniform:5,50");
  options.output_tokens = *LengthDistribution::Parse("uniform:1,20");
  options.vocab_size = 100;
  options.context_length = 1000;
  options.seed = 7;
  return options;
}

TEST(WorkloadTest, Requests_FollowFromSeedAndNumber) {
  const Workload workload(RandomOptions());
  const Workload same(RandomOptions());
  Workload::Options other_options = RandomOptions();
  other_options.seed = 8;
  const Workload other(other_options);
  std::set<std::string> distinct;
  for (uint64_t i = 40; i-- > 0;) {  // in whatever order
    const auto request = workload.Make(i).request;
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(request, same.Make(i).request));
    EXPECT_FALSE(
        google::protobuf::util::MessageDifferencer::Equals(request, other.Make(i).request));
    distinct.insert(request.SerializeAsString());
    EXPECT_GE(request.prompt_tokens().ids_size(), 5);
    EXPECT_LE(request.prompt_tokens().ids_size(), 50);
    EXPECT_GE(request.max_tokens(), 1u);
    EXPECT_LE(request.max_tokens(), 20u);
    for (const int32_t id : request.prompt_tokens().ids()) {
      EXPECT_GE(id, 0);
      EXPECT_LT(id, 100);
    }
  }
  EXPECT_EQ(distinct.size(), 40u);
}

TEST(WorkloadTest, SharedPrefix_IsTheSameAndTheRestIsNot) {
  Workload::Options options = RandomOptions();
  options.shared_prefix = 30;
  options.prompt_tokens = LengthDistribution::Fixed(20);
  const Workload workload(options);
  const auto first = workload.Make(0).request.prompt_tokens().ids();
  const auto second = workload.Make(1).request.prompt_tokens().ids();
  ASSERT_EQ(first.size(), 50);
  ASSERT_EQ(second.size(), 50);
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 30, second.begin()));
  EXPECT_FALSE(std::equal(first.begin() + 30, first.end(), second.begin() + 30));
}

TEST(WorkloadTest, Lengths_AreCutToTheContext) {
  Workload::Options options = RandomOptions();
  options.context_length = 64;
  options.shared_prefix = 40;
  options.prompt_tokens = LengthDistribution::Fixed(500);
  options.output_tokens = LengthDistribution::Fixed(500);
  const auto request = Workload(options).Make(0).request;
  EXPECT_EQ(request.prompt_tokens().ids_size(), 63);
  EXPECT_EQ(request.max_tokens(), 1u);
  options.shared_prefix = 400;
  EXPECT_LT(Workload(options).Make(0).request.prompt_tokens().ids_size(), 64);
}

TEST(WorkloadTest, CancelFraction_IsMetAtMomentsOfAllKinds) {
  Workload::Options options = RandomOptions();
  options.output_tokens = LengthDistribution::Fixed(10);
  options.cancel_fraction = 0.25;
  const Workload workload(options);
  int cancelled = 0;
  std::set<uint32_t> moments;
  for (uint64_t i = 0; i < 4000; ++i) {
    if (const auto after = workload.Make(i).cancel_after; after.has_value()) {
      ++cancelled;
      moments.insert(*after);
    }
  }
  EXPECT_NEAR(cancelled, 1000, 120);  // more than four standard deviations
  EXPECT_THAT(moments, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(WorkloadTest, PromptsAndClients_TakeTurns) {
  Workload::Options options = RandomOptions();
  options.prompts = *ParsePrompts("\"a\"\n{\"prompt\": \"b\", \"max_tokens\": 3}");
  options.output_tokens = LengthDistribution::Fixed(9);
  options.clients = 3;
  options.common.set_model("m");
  const Workload workload(options);
  const auto request = workload.Make(3).request;
  EXPECT_EQ(request.prompt(), "b");
  EXPECT_EQ(request.max_tokens(), 3u);
  EXPECT_EQ(request.model(), "m");
  EXPECT_EQ(request.client(), "load-1");
  EXPECT_EQ(workload.Make(4).request.prompt(), "a");
  EXPECT_EQ(workload.Make(4).request.max_tokens(), 9u);
  EXPECT_EQ(workload.Make(4).request.client(), "load-2");
}

}  // namespace
}  // namespace quantloom::cli
