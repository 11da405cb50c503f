// The demonstration model in F32 against another implementation, position by position.

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/base/parallel.h"
#include "engine/loaded_model.h"
#include "engine/window_runner.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

// Both sides round to single precision in their own order; measured differences are below 1e-4.
constexpr double kToleranceNats = 1e-3;

double Logprob(absl::Span<const float> logits, int32_t token) {
  double max = logits[0];
  for (float logit : logits) max = std::max<double>(max, logit);
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - max);
  return logits[static_cast<size_t>(token)] - max - std::log(sum);
}

class GoldenLogprobs : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("QUANTLOOM_TEST_MODEL");
    if (path == nullptr) {
      GTEST_SKIP() << "set QUANTLOOM_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf to compare with "
                      "the golden log-probabilities";
    }
    auto loaded = LoadedModel::LoadSource(path, team_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *std::move(loaded);
    auto text = ReadFile(std::string(QUANTLOOM_TESTS_DIR) + "/golden/smollm2_logprobs.json");
    ASSERT_TRUE(text.ok()) << text.status();
    golden_ = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(golden_.is_object());
  }

  ThreadTeam team_;
  std::shared_ptr<const LoadedModel> model_;
  nlohmann::json golden_;
};

TEST_F(GoldenLogprobs, AgreeAtEveryPosition) {
  size_t positions = 0;
  double worst = 0;
  for (const auto& window : golden_["windows"]) {
    const auto tokens = window["tokens"].get<std::vector<int32_t>>();
    const auto expected = window["logprobs"].get<std::vector<double>>();
    ASSERT_EQ(expected.size() + 1, tokens.size());
    auto runner = WindowRunner::Create(model_->model(), tokens.size(), KvElement::kF32);
    ASSERT_TRUE(runner.ok()) << runner.status();
    ASSERT_TRUE((*runner)->Forward(tokens).ok());
    const absl::Status visited =
        (*runner)->VisitLogits(0, expected.size(), [&](size_t i, absl::Span<const float> logits) {
          const double actual = Logprob(logits, tokens[i + 1]);
          worst = std::max(worst, std::abs(actual - expected[i]));
          EXPECT_NEAR(actual, expected[i], kToleranceNats) << "position " << i;
          ++positions;
        });
    EXPECT_TRUE(visited.ok()) << visited;
  }
  EXPECT_GE(positions, 2000u);
  RecordProperty("worst_difference_nats", std::to_string(worst));
  std::printf("%zu positions, largest difference %.2e nats\n", positions, worst);
}

TEST_F(GoldenLogprobs, TheTextHasTheGoldenTokens) {
  auto text = ReadFile(std::string(QUANTLOOM_TESTS_DIR) + "/data/prose.txt");
  ASSERT_TRUE(text.ok()) << text.status();
  const std::vector<int32_t> tokens = model_->tokenizer().Encode(*text, /*parse_special=*/false);
  size_t next = 0;
  for (const auto& window : golden_["windows"]) {
    for (const auto& token : window["tokens"]) {
      ASSERT_LT(next, tokens.size());
      ASSERT_EQ(tokens[next], token.get<int32_t>()) << "token " << next;
      ++next;
    }
  }
}

}  // namespace
}  // namespace quantloom
