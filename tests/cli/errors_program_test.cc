// Exit status, error output and retries: the same for every command, shown on `info`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

ScriptedServer ServerThatAnswers(std::function<grpc::Status()> answer) {
  return ScriptedServer({.get_server_info = [answer](auto&, const auto&, v1::ServerInfo* info) {
    info->set_version("9.9");
    return answer();
  }});
}

TEST(ErrorsProgramTest, ExitStatus_TellsWhatKindOfErrorItWas) {
  struct Case {
    grpc::StatusCode code;
    int exit_status;
    std::string name;
  };
  const Case cases[] = {
      {grpc::StatusCode::CANCELLED, 1, "CANCELLED"},
      {grpc::StatusCode::UNKNOWN, 1, "UNKNOWN"},
      {grpc::StatusCode::INVALID_ARGUMENT, 1, "INVALID_ARGUMENT"},
      {grpc::StatusCode::DEADLINE_EXCEEDED, 5, "DEADLINE_EXCEEDED"},
      {grpc::StatusCode::NOT_FOUND, 1, "NOT_FOUND"},
      {grpc::StatusCode::ALREADY_EXISTS, 1, "ALREADY_EXISTS"},
      {grpc::StatusCode::PERMISSION_DENIED, 1, "PERMISSION_DENIED"},
      {grpc::StatusCode::UNAUTHENTICATED, 1, "UNAUTHENTICATED"},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, 1, "RESOURCE_EXHAUSTED"},
      {grpc::StatusCode::FAILED_PRECONDITION, 1, "FAILED_PRECONDITION"},
      {grpc::StatusCode::ABORTED, 1, "ABORTED"},
      {grpc::StatusCode::OUT_OF_RANGE, 1, "OUT_OF_RANGE"},
      {grpc::StatusCode::UNIMPLEMENTED, 1, "UNIMPLEMENTED"},
      {grpc::StatusCode::INTERNAL, 1, "INTERNAL"},
      {grpc::StatusCode::UNAVAILABLE, 3, "UNAVAILABLE"},
      {grpc::StatusCode::DATA_LOSS, 1, "DATA_LOSS"},
  };
  for (const Case& c : cases) {
    const ScriptedServer server =
        ServerThatAnswers([&] { return grpc::Status(c.code, "what went wrong"); });
    const Outcome text = RunProgram({"info", "--server", server.address()});
    EXPECT_EQ(text.status, c.exit_status) << c.name;
    EXPECT_THAT(text.error, StartsWith("error: " + c.name + ": "));
    EXPECT_THAT(text.error, HasSubstr("what went wrong\n"));
    EXPECT_EQ(text.output, "");
    const Outcome json = RunProgram({"--json", "info", "--server", server.address()});
    EXPECT_EQ(json.status, c.exit_status) << c.name;
    const auto error = nlohmann::json::parse(json.error)["error"];
    EXPECT_EQ(error["status"], c.name);
    EXPECT_EQ(error["code"], static_cast<int>(c.code));
    EXPECT_EQ(error["exit_code"], c.exit_status);
  }
}

TEST(ErrorsProgramTest, FieldViolations_AreListed) {
  const ScriptedServer server = ServerThatAnswers(
      [] { return BadField("bad recipe", "recipe", "bits must be 1 .. 4 or 8"); });
  const Outcome outcome = RunProgram({"info", "--server", server.address()});
  EXPECT_EQ(outcome.error,
            "error: INVALID_ARGUMENT: bad recipe\n  recipe: bits must be 1 .. 4 or 8\n");
}

TEST(ErrorsProgramTest, NoServer_IsUnavailableAndNamesTheAddress) {
  std::string address;
  {
    address = ServerThatAnswers([] { return grpc::Status::OK; }).address();
  }
  const Outcome outcome = RunProgram({"info"}, {.environment = {{"QUANTLOOM_SERVER", address}}});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_THAT(outcome.error, StartsWith("error: UNAVAILABLE: server at " + address + ": "));
}

TEST(ErrorsProgramTest, Flag_WinsOverEnvironment) {
  const ScriptedServer server = ServerThatAnswers([] { return grpc::Status::OK; });
  const Outcome outcome = RunProgram({"info", "--server", server.address()},
                                     {.environment = {{"QUANTLOOM_SERVER", "127.0.0.1:1"}}});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_THAT(outcome.output, HasSubstr("version          9.9\n"));
}

TEST(ErrorsProgramTest, Timeout_EndsACallThatHangs) {
  const ScriptedServer server({.get_server_info = [](auto& context, const auto&, auto*) {
    AwaitCancellation(context);
    return grpc::Status::CANCELLED;
  }});
  const Outcome outcome = RunProgram({"info", "--server", server.address(), "--timeout", "200ms"});
  EXPECT_EQ(outcome.status, 5);
  EXPECT_THAT(outcome.error, StartsWith("error: DEADLINE_EXCEEDED: "));
}

TEST(ErrorsProgramTest, Busy_IsFinalWithoutRetry) {
  std::atomic<int> calls = 0;
  const ScriptedServer server = ServerThatAnswers([&] {
    ++calls;
    return RetryAfter(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full", 1500);
  });
  const Outcome outcome = RunProgram({"info", "--server", server.address()});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(calls, 1);
  EXPECT_THAT(outcome.error, HasSubstr("try again in 1.5s"));
}

TEST(ErrorsProgramTest, Busy_IsTriedAgainAfterThePauseThatTheServerAsksFor) {
  std::atomic<int> calls = 0;
  const ScriptedServer server = ServerThatAnswers([&] {
    return ++calls < 3 ? RetryAfter(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full", 200)
                       : grpc::Status::OK;
  });
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome = RunProgram({"info", "--server", server.address(), "--retry", "5"});
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(400));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(calls, 3);
  EXPECT_THAT(outcome.error, HasSubstr("queue is full; trying again in 0.20s"));
}

TEST(ErrorsProgramTest, Busy_IsGivenUpAfterTheRetries) {
  std::atomic<int> calls = 0;
  const ScriptedServer server = ServerThatAnswers([&] {
    ++calls;
    return RetryAfter(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full", 1);
  });
  EXPECT_EQ(RunProgram({"info", "--server", server.address(), "--retry", "2"}).status, 1);
  EXPECT_EQ(calls, 3);
}

TEST(ErrorsProgramTest, Exhausted_WithoutRetryInfoIsNotTriedAgain) {
  std::atomic<int> calls = 0;
  const ScriptedServer server = ServerThatAnswers([&] {
    ++calls;
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "message too large");
  });
  EXPECT_EQ(RunProgram({"info", "--server", server.address(), "--retry", "2"}).status, 1);
  EXPECT_EQ(calls, 1);
}

TEST(ErrorsProgramTest, WrongCommandLine_IsStatus2) {
  const std::vector<std::vector<std::string>> command_lines = {
      {},
      {"no-such-command"},
      {"info", "--no-such-option"},
      {"info", "extra"},
      {"info", "--timeout", "soon"},
      {"info", "--retry", "-1"},
      {"info", "--color", "mauve"},
      {"quantize", "source", "output"},
      {"quantize", "source", "--recipe", "x"},
      {"quantize", "s", "o", "-r", "x", "--override", "no-equals"},
      {"quantize", "s", "o", "-r", "x", "--override", "=x"},
      {"quantize", "s", "o", "-r", "x", "--windows", "3"},
      {"quantize", "s", "o", "-r", "x", "--calibration", "f", "--calibration-path", "p"},
      {"quantize", "s", "o", "-r", "x", "--calibration-tokens", "-3"},
      {"generate", "--temperature", "warm", "x"},
      {"generate", "--logit-bias", "5:1", "x"},
      {"generate", "--prompt-tokens", "1,2", "prompt"},
      {"jobs", "--state", "sleeping"},
      {"jobs", "--page-size", "0"},
      {"model"},
      {"model", "load"},
      {"score"},
      {"score", "f", "--window-tokens", "1"},
  };
  for (const auto& arguments : command_lines) {
    const Outcome outcome = RunProgram(arguments);
    EXPECT_EQ(outcome.status, 2) << testing::PrintToString(arguments);
    EXPECT_THAT(outcome.error, StartsWith("quantloom: ")) << testing::PrintToString(arguments);
    EXPECT_THAT(outcome.error, HasSubstr("--help'")) << testing::PrintToString(arguments);
  }
  const Outcome json = RunProgram({"--json", "info", "--no-such-option"});
  EXPECT_EQ(nlohmann::json::parse(json.error)["error"]["exit_code"], 2);
}

TEST(ErrorsProgramTest, Help_HasExamplesForEveryCommand) {
  for (const std::string command :
       {"quantize", "jobs", "watch", "cancel", "generate", "chat", "score", "tokenize",
        "detokenize", "models", "model", "info", "inspect"}) {
    const Outcome outcome = RunProgram({command, "--help"});
    EXPECT_EQ(outcome.status, 0) << command;
    EXPECT_THAT(outcome.output, HasSubstr("\n  quantloom " + command)) << command;
  }
  EXPECT_THAT(RunProgram({"--version"}).output, StartsWith("quantloom "));
}

TEST(ErrorsProgramTest, FullDisk_IsAnError) {
  const ScriptedServer server = ServerThatAnswers([] { return grpc::Status::OK; });
  const Outcome outcome =
      RunProgram({"info", "--server", server.address()}, {.output_file = "/dev/full"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.error, HasSubstr("standard output"));
}

TEST(ErrorsProgramTest, Colours_AreForTerminalsThatWantThem) {
  const ScriptedServer server =
      ServerThatAnswers([] { return grpc::Status(grpc::StatusCode::NOT_FOUND, "gone"); });
  const std::vector<std::string> arguments = {"info", "--server", server.address()};
  const auto coloured = [&](ProgramOptions options, std::vector<std::string> more = {}) {
    std::vector<std::string> all = arguments;
    all.insert(all.end(), more.begin(), more.end());
    const Outcome outcome = RunProgram(all, options);
    return (outcome.output + outcome.error).find("\x1b[1;31m") != std::string::npos;
  };
  EXPECT_TRUE(coloured({.terminal = true}));
  EXPECT_FALSE(coloured({}));
  EXPECT_TRUE(coloured({}, {"--color", "always"}));
  EXPECT_FALSE(coloured({.terminal = true}, {"--color", "never"}));
  EXPECT_FALSE(coloured({.terminal = true, .environment = {{"NO_COLOR", "1"}}}));
  EXPECT_TRUE(coloured({.terminal = true, .environment = {{"NO_COLOR", ""}}}));
  EXPECT_FALSE(coloured({.terminal = true, .environment = {{"TERM", "dumb"}}}));
}

}  // namespace
}  // namespace quantloom::cli
