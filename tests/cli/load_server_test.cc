// load, with the real server on a tiny model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/services/common/http_get.h"
#include "tests/services/common/service_process.h"
#include "tests/services/server/packed_model.h"
#include "tests/temporary_directory.h"

namespace quantloom::cli {
namespace {

using nlohmann::json;

class LoadServerTest : public ::testing::Test {
 protected:
  void StartServer(std::vector<std::string> flags) {
    quantloom::testing::WritePackedModel(directory_.path() / "models", "tiny", /*seed=*/1);
    flags.push_back(absl::StrCat("--model-root=", (directory_.path() / "models").string()));
    flags.push_back("--load=tiny");
    flags.push_back("--threads=1");
    server_.emplace(QUANTLOOM_SERVER, flags, directory_.path());
    // It listens before the model is loaded.
    for (int i = 0; i < 600 && Run({"generate", "-n", "1", "x"}).status != 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  Outcome Run(std::vector<std::string> arguments) const {
    arguments.push_back("--server");
    arguments.push_back(absl::StrCat("127.0.0.1:", server_->port()));
    return RunProgram(arguments);
  }
  json RunLoad(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"load", "--json"});
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.error;
    return json::parse(outcome.output, nullptr, /*allow_exceptions=*/false);
  }
  double Metric(const std::string& name) const {
    const std::string samples = HttpGet(server_->metrics_port(), "/metrics");
    const size_t at = samples.find(absl::StrCat("\n", name, "{model=\"tiny\"} "));
    double value = -1;
    if (at == std::string::npos) return value;
    std::istringstream(samples.substr(samples.find("} ", at) + 2)) >> value;
    return value;
  }
  // Once the server has seen the last streams end.
  void ExpectIdle() const {
    HttpGetUntil(server_->metrics_port(), "/metrics",
                 "quantloom_requests_running{model=\"tiny\"} 0\n");
    EXPECT_EQ(Metric("quantloom_requests_running"), 0);
    EXPECT_EQ(Metric("quantloom_requests_waiting"), 0);
    EXPECT_EQ(Metric("quantloom_kv_cache_usage_ratio"), 0);
  }

  quantloom::testing::TemporaryDirectory directory_;
  std::optional<quantloom::testing::ServiceProcess> server_;
};

TEST_F(LoadServerTest, ClosedLoop_CountsWhatTheServerCounts) {
  StartServer({"--max-running=8"});
  const double prompts = Metric("quantloom_prompt_tokens_total");
  const double cached = Metric("quantloom_prefix_cache_hit_tokens_total");
  const double generated = Metric("quantloom_generated_tokens_total");
  const json report = RunLoad({"--streams", "8", "--requests", "40", "--shared-prefix", "96",
                               "--prompt-tokens", "uniform:8,40", "--output-tokens", "12"});
  EXPECT_EQ(report["requests"]["ok"], 40);
  EXPECT_EQ(report["requests"]["by_status"], json::parse(R"({"OK": 40})"));
  EXPECT_EQ(report["tokens"]["generated"], 40 * 12);
  EXPECT_EQ(Metric("quantloom_generated_tokens_total") - generated, 40 * 12);
  // The prefix is computed once; all but its first reader find it.
  EXPECT_EQ(report["tokens"]["cached"], Metric("quantloom_prefix_cache_hit_tokens_total") - cached);
  EXPECT_GE(report["tokens"]["cached"], 39 * 96);
  EXPECT_EQ(report["tokens"]["prompt"].get<double>() - report["tokens"]["cached"].get<double>(),
            Metric("quantloom_prompt_tokens_total") - prompts);
  const json& latency = report["latency_seconds"];
  EXPECT_EQ(latency["time_to_first_token"]["count"], 40);
  EXPECT_LE(latency["time_to_first_token"]["p50"], latency["end_to_end"]["p50"]);
  EXPECT_LE(latency["queue"]["max"], latency["end_to_end"]["max"]);
  EXPECT_GT(latency["inter_token"]["count"], 0);
  EXPECT_GT(report["tokens_per_second"]["total"], report["tokens_per_second"]["generated"]);
  ExpectIdle();
}

TEST_F(LoadServerTest, ManyMoreStreamsThanPlaces_AllEndWithTextOrARefusal) {
  StartServer({"--max-running=4", "--max-waiting=16"});
  const json report = RunLoad({"--streams", "200", "--requests", "200", "--prompt-tokens",
                               "uniform:4,60", "--output-tokens", "uniform:4,24"});
  const json& by_status = report["requests"]["by_status"];
  EXPECT_EQ(report["requests"]["sent"], 200);
  EXPECT_GE(by_status.value("OK", 0), 20) << "as many as run or wait";
  EXPECT_GT(by_status.value("RESOURCE_EXHAUSTED", 0), 0);
  EXPECT_EQ(by_status.value("OK", 0) + by_status.value("RESOURCE_EXHAUSTED", 0), 200) << by_status;
  ExpectIdle();
}

TEST_F(LoadServerTest, CancelledStreams_LeaveNothingBehind) {
  StartServer({"--max-running=8", "--max-waiting=200"});
  const json report = RunLoad({"--streams", "40", "--requests", "120", "--cancel-fraction", "0.5",
                               "--prompt-tokens", "uniform:4,100", "--output-tokens", "30"});
  EXPECT_EQ(report["requests"]["by_status"].value("OK", 0) +
                report["requests"]["cancelled_as_asked"].get<int>(),
            120);
  // An answer may be whole before its cancellation arrives.
  EXPECT_GT(report["requests"]["cancelled_as_asked"], 20);
  ExpectIdle();
}

TEST_F(LoadServerTest, OpenLoopWithTextPrompts_IsServed) {
  StartServer({});
  const std::string path = (directory_.path() / "prompts.jsonl").string();
  std::ofstream(path) << "\"the rain\"\n"
                      << R"({"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 5})"
                      << "\n";
  const json report = RunLoad({"--rate", "50", "--requests", "20", "--warmup", "100ms", "--prompts",
                               path, "--output-tokens", "8", "--clients", "3"});
  EXPECT_EQ(report["requests"]["ok"], 20);
  EXPECT_GT(report["tokens"]["prompt"], 0) << "as usage says";
  ExpectIdle();
}

}  // namespace
}  // namespace quantloom::cli
