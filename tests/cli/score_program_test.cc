// score --source
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"
#include "tests/temporary_directory.h"

namespace quantloom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Writer = grpc::ServerWriter<v1::EvaluateResponse>;

constexpr uint32_t kWindows = 4;

v1::EvaluateResponse Plan() {
  v1::EvaluateResponse response;
  v1::EvaluationPlan& plan = *response.mutable_plan();
  plan.set_source_sha256("5a");
  plan.set_model_sha256("3b");
  plan.set_text_sha256("7c");
  plan.set_window_tokens(4);
  plan.set_windows(kWindows);
  plan.set_recipe("icquant:bits=2");
  plan.set_linear_bits_per_weight(2.3412);
  plan.set_bits_per_weight(3.912);
  return response;
}

// Two tokens scored; all figures of a window differ from those of the others, none is a round one.
v1::EvaluateResponse Window(uint32_t index) {
  v1::EvaluateResponse response;
  v1::EvaluationWindow& window = *response.mutable_window();
  window.set_index(index);
  window.set_scored_tokens(2);
  window.set_nll_source(5 + index / 3.0);
  window.set_nll_packed(6 + index / 7.0);
  window.add_kl(0.1 / (index + 1));
  window.add_kl(std::exp(-1.0 - index));
  window.set_same_top1(index % 2);
  return response;
}

// A quantizer that scores windows `first_window` .. and remembers what it was asked.
class Evaluation {
 public:
  // Ends the first call with `first_end` after so many windows; all if it is kWindows.
  explicit Evaluation(uint32_t first_call_windows = kWindows,
                      grpc::Status first_end = grpc::Status::OK)
      : first_call_windows_(first_call_windows), first_end_(std::move(first_end)) {}

  Script script() {
    return {.evaluate = [this](auto& context, const auto& request, Writer& writer) {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      writer.Write(plan);
      const bool first = requests_.size() == 1;
      const uint32_t end = std::min(plan.plan().windows(), first ? first_call_windows_ : kWindows);
      for (uint32_t i = request.first_window(); i < end; ++i) writer.Write(Window(i));
      if (!first || first_call_windows_ == kWindows) return grpc::Status::OK;
      if (first_end_.ok()) AwaitCancellation(context);
      return first_end_;
    }};
  }
  std::vector<v1::EvaluateRequest> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  std::vector<uint32_t> first_windows() {
    std::vector<uint32_t> numbers;
    for (const auto& request : requests()) numbers.push_back(request.first_window());
    return numbers;
  }

  v1::EvaluateResponse plan = Plan();

 private:
  const uint32_t first_call_windows_;
  const grpc::Status first_end_;
  std::mutex mutex_;
  std::vector<v1::EvaluateRequest> requests_;
};

class ScoreEvaluationTest : public ::testing::Test {
 protected:
  ScoreEvaluationTest() { std::ofstream(text_) << "a text"; }

  std::vector<std::string> Arguments(const ScriptedServer& server,
                                     const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"score",  text_,         "--source",
                                          "tiny",   "--model",     "tiny-2bit",
                                          "--json", "--quantizer", server.address()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<std::string> WithState(const ScriptedServer& server) const {
    return Arguments(server, {"--state", state_});
  }
  std::string State() const {
    std::ifstream file(state_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // Waits until the state file has so many windows.
  void AwaitWindows(int count) const {
    for (int i = 0; i < 10'000; ++i) {
      const std::string text = State();
      if (std::count(text.begin(), text.end(), '\n') > count) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ADD_FAILURE() << State();
  }
  // The figures of a run that nothing disturbs.
  std::string Undisturbed() const {
    Evaluation evaluation;
    const ScriptedServer server(evaluation.script());
    return RunProgram(Arguments(server)).output;
  }
  // Leaves a state of two windows.
  void Interrupt() const {
    Evaluation evaluation(2);
    const ScriptedServer server(evaluation.script());
    Program program(WithState(server));
    AwaitWindows(2);
    program.Interrupt();
    EXPECT_EQ(program.Wait(), 130);
  }

  quantloom::testing::TemporaryDirectory directory_;
  const std::string text_ = (directory_.path() / "text.txt").string();
  const std::string state_ = (directory_.path() / "score.jsonl").string();
};

TEST_F(ScoreEvaluationTest, Figures_AreOfAllWindowsTogether) {
  Evaluation evaluation;
  const ScriptedServer server(evaluation.script());
  const Outcome outcome = RunProgram(
      Arguments(server, {"--windows", "40", "--window-tokens", "16", "--timeout", "30s"}));
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.error, "");
  const v1::EvaluateRequest request = evaluation.requests().at(0);
  EXPECT_EQ(request.source(), "tiny");
  EXPECT_EQ(request.model(), "tiny-2bit");
  EXPECT_EQ(request.evaluation().inline_text(), "a text");
  EXPECT_EQ(request.evaluation().windows(), 40u);
  EXPECT_EQ(request.evaluation().window_tokens(), 16u);

  double nll_source = 0, nll_packed = 0, kl = 0;
  for (uint32_t i = 0; i < kWindows; ++i) {
    nll_source += 5 + i / 3.0;
    nll_packed += 6 + i / 7.0;
    kl += 0.1 / (i + 1) + std::exp(-1.0 - i);
  }
  const auto json = nlohmann::json::parse(outcome.output);
  EXPECT_DOUBLE_EQ(json["perplexity_source"], std::exp(nll_source / 8));
  EXPECT_DOUBLE_EQ(json["perplexity_packed"], std::exp(nll_packed / 8));
  EXPECT_DOUBLE_EQ(json["kl_mean"], kl / 8);
  EXPECT_EQ(json["kl_p99"], std::exp(-1.0));
  EXPECT_EQ(json["top1_agreement"], 0.25);
  EXPECT_EQ(json["scored_tokens"], 8);
  EXPECT_EQ(json["windows"], 4);
  EXPECT_EQ(json["window_tokens"], 4);
  EXPECT_EQ(json["recipe"], "icquant:bits=2");
  EXPECT_EQ(json["linear_bits_per_weight"], 2.3412);
  EXPECT_EQ(json["bits_per_weight"], 3.912);
  EXPECT_EQ(json["source_sha256"], "5a");
  EXPECT_EQ(json["model_sha256"], "3b");
  EXPECT_EQ(json["text_sha256"], "7c");
}

TEST_F(ScoreEvaluationTest, Terminal_ShowsProgressAndATable) {
  Evaluation evaluation;
  const ScriptedServer server(evaluation.script());
  const Outcome outcome = RunProgram({"score", "--text-path", "texts/t.txt", "--source", "tiny",
                                      "-m", "tiny-2bit", "--quantizer", server.address()},
                                     {.terminal = true});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(evaluation.requests().at(0).evaluation().path(), "texts/t.txt");
  EXPECT_THAT(outcome.output, HasSubstr("\rloading source and packed model"));
  EXPECT_THAT(outcome.output, HasSubstr("\rscoring 0/4 "));
  EXPECT_THAT(outcome.output, HasSubstr("\r\x1b[Ksource          tiny\n"
                                        "model           tiny-2bit\n"
                                        "recipe          icquant:bits=2\n"
                                        "bits/weight     2.341 linear layers, 3.912 all tensors\n"
                                        "measured on     texts/t.txt (8 tokens scored)\n"));
  EXPECT_THAT(outcome.output, HasSubstr("same top token  25.0 %\n"));
}

TEST_F(ScoreEvaluationTest, Interrupted_GoesOnWhereItStoppedWithTheSameFigures) {
  Interrupt();
  Evaluation evaluation;
  const ScriptedServer server(evaluation.script());
  const Outcome resumed = RunProgram(WithState(server));
  EXPECT_EQ(resumed.status, 0) << resumed.error;
  EXPECT_THAT(evaluation.first_windows(), ElementsAre(2));
  EXPECT_EQ(resumed.output, Undisturbed());
  // All is known now, and a part of it too.
  EXPECT_EQ(RunProgram(WithState(server)).output, resumed.output);
  evaluation.plan.mutable_plan()->set_windows(1);
  const auto part = nlohmann::json::parse(RunProgram(WithState(server)).output);
  EXPECT_EQ(part["scored_tokens"], 2);
  EXPECT_DOUBLE_EQ(part["perplexity_source"], std::exp(2.5));
  EXPECT_THAT(evaluation.first_windows(), ElementsAre(2, 4, 4));
}

TEST_F(ScoreEvaluationTest, Interrupted_SaysWhatIsKept) {
  Evaluation evaluation(2);
  const ScriptedServer server(evaluation.script());
  Program program({"score", text_, "--source", "tiny", "-m", "m", "--state", state_, "--quantizer",
                   server.address()});
  AwaitWindows(2);
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_EQ(program.error(), absl::StrCat("2 windows are kept in '", state_,
                                          "'. The same command goes on from there.\n"));
  EXPECT_EQ(program.output(), "");
}

TEST_F(ScoreEvaluationTest, LostConnection_IsTakenUpAgainAfterTheLastWindow) {
  Evaluation evaluation(3, grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone"));
  const ScriptedServer server(evaluation.script());
  const Outcome outcome = RunProgram(Arguments(server, {"--retry", "1"}));
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_THAT(evaluation.first_windows(), ElementsAre(0, 3));
  EXPECT_EQ(outcome.output, Undisturbed());
}

TEST_F(ScoreEvaluationTest, LostConnection_WithoutRetryKeepsTheState) {
  Evaluation evaluation(3, grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone"));
  const ScriptedServer server(evaluation.script());
  EXPECT_EQ(RunProgram(WithState(server)).status, 3);
  EXPECT_EQ(RunProgram(WithState(server)).output, Undisturbed());
  EXPECT_THAT(evaluation.first_windows(), ElementsAre(0, 3));
}

TEST_F(ScoreEvaluationTest, AnythingElseThanWhatTheStateIsOfIsRefused) {
  Interrupt();
  const std::string before = State();
  using Change = void (*)(v1::EvaluationPlan&);
  for (const auto& [what, change] : std::vector<std::pair<std::string, Change>>{
           {"another source (5a, now other)", [](auto& p) { p.set_source_sha256("other"); }},
           {"another packed model (3b, now other)", [](auto& p) { p.set_model_sha256("other"); }},
           {"another text (7c, now other)", [](auto& p) { p.set_text_sha256("other"); }},
           {"another window size (4 tokens, now 8 tokens)",
            [](auto& p) { p.set_window_tokens(8); }}}) {
    Evaluation evaluation;
    change(*evaluation.plan.mutable_plan());
    const ScriptedServer server(evaluation.script());
    const Outcome outcome = RunProgram(WithState(server));
    EXPECT_EQ(outcome.status, 1);
    EXPECT_THAT(outcome.error, HasSubstr("FAILED_PRECONDITION"));
    EXPECT_THAT(outcome.error, HasSubstr(what));
    EXPECT_EQ(State(), before) << what;
  }
}

TEST_F(ScoreEvaluationTest, ALineThatWasCutOffIsScoredAgain) {
  Interrupt();
  const std::string whole = State();
  for (const size_t cut : {size_t{1}, size_t{40}}) {
    std::ofstream(state_) << whole.substr(0, whole.size() - cut);
    Evaluation evaluation;
    const ScriptedServer server(evaluation.script());
    EXPECT_EQ(RunProgram(WithState(server)).output, Undisturbed());
    EXPECT_THAT(evaluation.first_windows(), ElementsAre(1));
    EXPECT_EQ(State().substr(0, whole.size()), whole);
  }
}

TEST_F(ScoreEvaluationTest, FilesThatHoldNoStateAreLeftAlone) {
  Interrupt();
  const std::string whole = State();
  const std::vector<std::string> lines = absl::StrSplit(whole, '\n');
  const auto run = [&] {
    Evaluation evaluation;
    const ScriptedServer server(evaluation.script());
    const Outcome outcome = RunProgram(WithState(server));
    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(evaluation.requests().empty());
    return outcome.error;
  };
  struct Case {
    std::string contents, error;
  };
  for (const Case& test :
       std::vector<Case>{{"my thesis\n", "holds no state"},
                         {"my thesis", "holds no state"},
                         {absl::StrCat(lines[1], "\n", lines[0], "\n"), "holds no state"},
                         {"{\"plan\": 3}\n", "holds no state"},
                         {absl::StrCat(lines[0], "\n", lines[2], "\n"), "damaged at line 2"},
                         {absl::StrCat(lines[0], "\n", lines[0], "\n"), "damaged at line 2"},
                         {absl::StrCat(whole, lines[2], "\n"), "damaged at line 4"},
                         {absl::StrCat(whole, "\n"), "damaged at line 4"},
                         {absl::StrCat(whole, "{\"window\":{\"index\":2,\"scoredTokens\":2}}\n"),
                          "damaged at line 4"}}) {
    std::ofstream(state_) << test.contents;
    EXPECT_THAT(run(), HasSubstr(test.error)) << test.contents;
    EXPECT_EQ(State(), test.contents);
  }
  std::filesystem::remove(state_);
  std::filesystem::create_directory(state_);
  EXPECT_THAT(run(), HasSubstr("Is a directory"));
}

TEST_F(ScoreEvaluationTest, AStateThatCannotBeKeptEndsTheRun) {
  Evaluation evaluation;
  const ScriptedServer server(evaluation.script());
  const Outcome outcome = RunProgram(Arguments(server, {"--state", "/no/such/directory/state"}));
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.error, HasSubstr("cannot write '/no/such/directory/state'"));
}

TEST_F(ScoreEvaluationTest, OneClientAtATimeHasTheState) {
  Evaluation evaluation(2);
  const ScriptedServer server(evaluation.script());
  Program first(WithState(server));
  AwaitWindows(2);
  const Outcome second = RunProgram(WithState(server));
  EXPECT_EQ(second.status, 1);
  EXPECT_THAT(second.error, HasSubstr("in use by another client"));
}

TEST_F(ScoreEvaluationTest, RefusalsAreShownAndLeaveNoState) {
  const ScriptedServer server({.evaluate = [](auto&, const auto&, Writer&) {
    return BadField("model: no such model", "model", "no such model");
  }});
  const Outcome outcome = RunProgram(WithState(server));
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.error, HasSubstr("no such model"));
  EXPECT_FALSE(std::filesystem::exists(state_));
}

TEST_F(ScoreEvaluationTest, AServiceThatBreaksItsWordIsNotBelieved) {
  const ScriptedServer skipping({.evaluate = [](auto&, const auto&, Writer& writer) {
    writer.Write(Plan());
    writer.Write(Window(1));
    return grpc::Status::OK;
  }});
  EXPECT_THAT(RunProgram(Arguments(skipping)).error, HasSubstr("not the next one"));
  const ScriptedServer ending({.evaluate = [](auto&, const auto&, Writer& writer) {
    writer.Write(Plan());
    writer.Write(Window(0));
    return grpc::Status::OK;
  }});
  EXPECT_EQ(RunProgram(Arguments(ending)).status, 3);
}

}  // namespace
}  // namespace quantloom::cli
