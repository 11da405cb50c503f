// score --source with the real quantizer on a tiny model, from the quantization to the figures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/services/common/service_process.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string ReadText(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class ScoreQuantizerTest : public ::testing::Test {
 protected:
  ScoreQuantizerTest() {
    quantloom::testing::WriteTinyModel(directory_.path() / "sources/tiny", /*seed=*/1);
    fs::create_directories(directory_.path() / "models");
    std::ofstream text(text_);
    for (int i = 0; i < 1500; ++i) text << "Line " << i << " of a text to score.\n";
    text.close();
    quantizer_.emplace(
        QUANTLOOM_QUANTIZER,
        std::vector<std::string>{
            absl::StrCat("--source-root=", (directory_.path() / "sources").string()),
            absl::StrCat("--model-root=", (directory_.path() / "models").string()),
            absl::StrCat("--state-dir=", (directory_.path() / "state").string()), "--threads=1"},
        directory_.path());
  }

  std::vector<std::string> Connected(std::vector<std::string> arguments) const {
    for (const std::string& argument :
         {std::string("--quantizer"), absl::StrCat("127.0.0.1:", quantizer_->port())}) {
      arguments.push_back(argument);
    }
    return arguments;
  }
  std::vector<std::string> Score(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"score", text_,    "--source",        "tiny", "-m",
                                          "tiny2", "--json", "--window-tokens", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Connected(arguments);
  }

  quantloom::testing::TemporaryDirectory directory_;
  const std::string text_ = (directory_.path() / "text.txt").string();
  const std::string state_ = (directory_.path() / "score.jsonl").string();
  std::optional<quantloom::testing::ServiceProcess> quantizer_;
};

TEST_F(ScoreQuantizerTest, InterruptedAndResumed_GivesTheFiguresOfTheJobsReport) {
  const Outcome quantized = RunProgram(
      Connected({"quantize", "tiny", "tiny2", "-r", "icquant:bits=2", "--calibration-tokens", "0",
                 "--evaluate", text_, "--window-tokens", "32"}));
  ASSERT_EQ(quantized.status, 0) << quantized.error;
  const json report =
      json::parse(ReadText(directory_.path() / "models/tiny2/quality.json"))["quality"];

  const Outcome whole = RunProgram(Score());
  ASSERT_EQ(whole.status, 0) << whole.error;
  const json figures = json::parse(whole.output);
  for (const char* name : {"perplexity_source", "perplexity_packed", "kl_mean", "kl_p99",
                           "top1_agreement", "scored_tokens", "text_sha256"}) {
    EXPECT_EQ(figures[name], report[name]) << name;
  }

  {
    Program program(Score({"--state", state_}));
    for (int i = 0; i < 30'000 && ReadText(state_).size() < 5000; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    program.Interrupt();
    ASSERT_EQ(program.Wait(), 130) << program.error();
  }
  const std::string kept = ReadText(state_);
  const auto windows = std::count(kept.begin(), kept.end(), '\n') - 1;
  EXPECT_GT(windows, 2);
  EXPECT_LT(windows, figures["windows"].get<int64_t>()) << "it was too fast to be interrupted";
  const Outcome resumed = RunProgram(Score({"--state", state_}));
  EXPECT_EQ(resumed.status, 0) << resumed.error;
  EXPECT_EQ(resumed.output, whole.output);
  EXPECT_TRUE(ReadText(state_).starts_with(kept)) << "nothing was scored twice";
}

TEST_F(ScoreQuantizerTest, UnknownModel_IsNamed) {
  const Outcome outcome = RunProgram(Score());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.error, ::testing::HasSubstr("model: "));
}

}  // namespace
}  // namespace quantloom::cli
