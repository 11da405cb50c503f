// load, against a server that is scripted: what cannot be asked of a real one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using LoadWriter = grpc::ServerWriter<v1::GenerateResponse>;

grpc::Status TinyModels(grpc::ServerContext&, const v1::ListModelsRequest&,
                        v1::ListModelsResponse* response) {
  v1::Model* model = response->add_models();
  model->set_name("tiny");
  model->set_state(v1::MODEL_STATE_LOADED);
  model->set_vocab_size(100);
  model->set_context_length(64);
  return grpc::Status::OK;
}

// Writes as many tokens as were asked for, and usage.
grpc::Status AnswerAll(const v1::GenerateRequest& request, LoadWriter& writer) {
  v1::GenerateResponse response;
  for (uint32_t i = 0; i + 1 < request.max_tokens(); ++i) {
    response.Clear();
    response.add_tokens()->set_id(1);
    writer.Write(response);
  }
  response.Clear();
  response.add_tokens()->set_id(1);
  response.set_finish_reason(v1::FINISH_REASON_LENGTH);
  response.mutable_usage()->set_prompt_tokens(
      static_cast<uint32_t>(request.prompt_tokens().ids_size()));
  response.mutable_usage()->set_generated_tokens(request.max_tokens());
  response.mutable_usage()->mutable_queue_time()->set_nanos(250'000'000);
  writer.Write(response);
  return grpc::Status::OK;
}

Outcome RunLoadProgram(const ScriptedServer& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"load", "--server", server.address()});
  return RunProgram(arguments);
}

TEST(LoadProgramTest, OpenLoop_ChargesTheServerForWhatHadToWait) {
  // One at a time takes 100 ms each, and one is due every 20 ms.
  std::mutex one_at_a_time;
  const ScriptedServer server({.generate =
                                   [&](auto&, const auto& request, LoadWriter& writer) {
                                     const std::lock_guard lock(one_at_a_time);
                                     std::this_thread::sleep_for(std::chrono::milliseconds(100));
                                     return AnswerAll(request, writer);
                                   },
                               .list_models = TinyModels});
  const Outcome outcome =
      RunLoadProgram(server, {"--rate", "50", "--constant", "--requests", "10", "--max-in-flight",
                              "1", "--prompt-tokens", "8", "--output-tokens", "2", "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  const json report = json::parse(outcome.output);
  EXPECT_EQ(report["requests"]["ok"], 10);
  // The last was due after 180 ms and was sent after the nine before it.
  EXPECT_GE(report["latency_seconds"]["time_to_first_token"]["max"], 1.0 - 0.18);
  EXPECT_GE(report["latency_seconds"]["end_to_end"]["max"], 1.0 - 0.18);
  EXPECT_GE(report["latency_seconds"]["send_lag"]["max"], 0.9 - 0.18);
  EXPECT_GE(report["latency_seconds"]["time_to_first_token"]["p50"], 0.4);
  EXPECT_EQ(report["latency_seconds"]["queue"]["p50"], 0.25);
  EXPECT_EQ(report["tokens"]["generated"], 20);
}

TEST(LoadProgramTest, ConstantRate_IsKept) {
  std::mutex mutex;
  std::vector<std::chrono::steady_clock::time_point> arrivals;
  const ScriptedServer server({.generate =
                                   [&](auto&, const auto& request, LoadWriter& writer) {
                                     {
                                       const std::lock_guard lock(mutex);
                                       arrivals.push_back(std::chrono::steady_clock::now());
                                     }
                                     return AnswerAll(request, writer);
                                   },
                               .list_models = TinyModels});
  const Outcome outcome =
      RunLoadProgram(server, {"--rate", "40", "--constant", "--duration", "1s", "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(json::parse(outcome.output)["requests"]["sent"], 40);
  EXPECT_GE(arrivals.back() - arrivals.front(), std::chrono::milliseconds(900));
}

TEST(LoadProgramTest, ClosedLoop_NeverHasMoreThanItsStreams) {
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  const ScriptedServer server({.generate =
                                   [&](auto&, const auto& request, LoadWriter& writer) {
                                     const int now = ++running;
                                     int before = most;
                                     while (now > before &&
                                            !most.compare_exchange_weak(before, now))
                                       ;
                                     std::this_thread::sleep_for(std::chrono::milliseconds(5));
                                     --running;
                                     return AnswerAll(request, writer);
                                   },
                               .list_models = TinyModels});
  const Outcome outcome = RunLoadProgram(server, {"--streams", "3", "--requests", "30", "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(json::parse(outcome.output)["requests"]["ok"], 30);
  EXPECT_LE(most, 3);
}

TEST(LoadProgramTest, Refusals_AreCountedAndWaitedFor) {
  std::atomic<int> calls = 0;
  const ScriptedServer server({.generate =
                                   [&](auto&, const auto& request, LoadWriter& writer) {
                                     if (++calls % 2 == 0) {
                                       return RetryAfter(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                         "the queue is full", 300);
                                     }
                                     return AnswerAll(request, writer);
                                   },
                               .list_models = TinyModels});
  const auto begin = std::chrono::steady_clock::now();
  const Outcome outcome = RunLoadProgram(server, {"--streams", "1", "--requests", "6"});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_THAT(outcome.output, HasSubstr("6 sent, 3 OK, 3 RESOURCE_EXHAUSTED\n"));
  EXPECT_THAT(outcome.output, HasSubstr("the queue is full"));
  // Between the six there are two refusals.
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(600));
}

TEST(LoadProgramTest, NothingButErrors_IsAnError) {
  const ScriptedServer server({.generate =
                                   [&](auto&, const auto&, LoadWriter&) {
                                     return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                                                         "not loaded");
                                   },
                               .list_models = TinyModels});
  const Outcome outcome = RunLoadProgram(server, {"--requests", "3"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.error, HasSubstr("FAILED_PRECONDITION: no request ended OK: not loaded"));
  EXPECT_EQ(RunProgram({"load", "--server", "127.0.0.1:1", "--timeout", "1s"}).status, 3);
}

TEST(LoadProgramTest, Interrupt_EndsWithTheReportSoFar) {
  std::atomic<int> calls = 0;
  const ScriptedServer server({.generate =
                                   [&](auto& context, const auto& request, LoadWriter& writer) {
                                     if (++calls <= 2) return AnswerAll(request, writer);
                                     AwaitCancellation(context);
                                     return grpc::Status::CANCELLED;
                                   },
                               .list_models = TinyModels});
  Program program({"load", "--streams", "1", "--duration", "10m", "--server", server.address()});
  while (calls < 3) std::this_thread::yield();
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_THAT(program.output(), HasSubstr("3 sent, 2 OK, 1 interrupted\n"));
}

TEST(LoadProgramTest, CancelledStreams_ReachTheServer) {
  std::atomic<int> begun = 0;
  std::atomic<int> cancelled = 0;
  const ScriptedServer server({.generate =
                                   [&](auto& context, const auto&, LoadWriter& writer) {
                                     ++begun;
                                     v1::GenerateResponse response;
                                     response.add_tokens()->set_id(1);
                                     while (writer.Write(response) && !context.IsCancelled()) {
                                       std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                     }
                                     ++cancelled;
                                     return grpc::Status::CANCELLED;
                                   },
                               .list_models = TinyModels});
  const Outcome outcome =
      RunLoadProgram(server, {"--streams", "8", "--requests", "16", "--cancel-fraction", "1",
                              "--prompt-tokens", "8", "--output-tokens", "50", "--json"});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  const json report = json::parse(outcome.output);
  EXPECT_EQ(report["requests"]["cancelled_as_asked"], 16);
  EXPECT_EQ(report["requests"]["by_status"], json::object());
  EXPECT_GT(begun, 8) << "most are given up in the middle of their answers";
  // The server learns of the last after the program has ended.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (cancelled < begun && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(cancelled, begun);
}

TEST(LoadProgramTest, PromptFile_IsSentInTurnWithoutAskingForModels) {
  std::mutex mutex;
  std::multiset<std::string> prompts;
  const ScriptedServer server({.generate = [&](auto&, const auto& request, LoadWriter& writer) {
    {
      const std::lock_guard lock(mutex);
      prompts.insert(request.prompt());
    }
    return AnswerAll(request, writer);
  }});
  const std::string path = ::testing::TempDir() + "load_prompts.jsonl";
  std::ofstream(path) << "\"a\"\n{\"prompt\": \"b\"}\n";
  const Outcome outcome = RunLoadProgram(
      server, {"--requests", "4", "--prompts", path, "--output-tokens", "3", "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_THAT(prompts, ::testing::UnorderedElementsAre("a", "a", "b", "b"));
  EXPECT_EQ(json::parse(outcome.output)["tokens"]["generated"], 12);
  std::ofstream(path) << "\"a\"\nb\n";
  const Outcome wrong = RunLoadProgram(server, {"--requests", "4", "--prompts", path});
  EXPECT_EQ(wrong.status, 1);
  EXPECT_THAT(wrong.error, HasSubstr("load_prompts.jsonl: line 2"));
}

TEST(LoadProgramTest, Plot_IsWrittenAndAFullDiskIsAnError) {
  const ScriptedServer server(
      {.generate = [](auto&, const auto& request,
                      LoadWriter& writer) { return AnswerAll(request, writer); },
       .list_models = TinyModels});
  const std::string path = ::testing::TempDir() + "load.svg";
  EXPECT_EQ(RunLoadProgram(server, {"--requests", "3", "--plot", path}).status, 0);
  std::stringstream svg;
  svg << std::ifstream(path).rdbuf();
  EXPECT_THAT(svg.str(), HasSubstr("tiny: 4 streams, 3 requests"));
  EXPECT_THAT(svg.str(), ::testing::EndsWith("</svg>\n"));
  const Outcome full = RunLoadProgram(server, {"--requests", "3", "--plot", "/dev/full"});
  EXPECT_EQ(full.status, 1);
  EXPECT_THAT(full.error, HasSubstr("/dev/full"));
}

TEST(LoadProgramTest, WrongOptions_AreRefused) {
  const ScriptedServer server({.list_models = TinyModels});
  EXPECT_EQ(RunLoadProgram(server, {"--streams", "0"}).status, 2);
  EXPECT_EQ(RunLoadProgram(server, {"--streams", "2", "--rate", "3"}).status, 2);
  EXPECT_EQ(RunLoadProgram(server, {"--constant"}).status, 2);
  EXPECT_EQ(RunLoadProgram(server, {"--duration", "soon"}).status, 2);
  EXPECT_EQ(RunLoadProgram(server, {"--cancel-fraction", "2"}).status, 2);
  const Outcome length = RunLoadProgram(server, {"--prompt-tokens", "many"});
  EXPECT_EQ(length.status, 1);
  EXPECT_THAT(length.error, HasSubstr("--prompt-tokens: 'many'"));
  const Outcome model = RunLoadProgram(server, {"--model", "other"});
  EXPECT_EQ(model.status, 1);
  EXPECT_THAT(model.error, HasSubstr("no model 'other'"));
}

}  // namespace
}  // namespace quantloom::cli
