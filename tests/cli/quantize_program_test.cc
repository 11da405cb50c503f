// quantize, watch
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <optional>
#include <thread>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/cli/job_events.h"
#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using EventWriter = grpc::ServerWriter<v1::QuantizeEvent>;

std::vector<std::string> Quantize(const std::string& address, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"quantize",       "tiny",        "tiny-2bit", "--recipe",
                                        "icquant:bits=2", "--quantizer", address};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// The events that --json wrote.
std::vector<v1::QuantizeEvent> Events(const std::string& output) {
  std::vector<v1::QuantizeEvent> events;
  for (const absl::string_view line : absl::StrSplit(output, '\n', absl::SkipEmpty())) {
    v1::QuantizeEvent event;
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(std::string(line), &event).ok())
        << line;
    events.push_back(event);
  }
  return events;
}

std::string TemporaryFile(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

Script JobThatEnds(v1::JobState state) {
  return {.quantize = [state](auto&, const auto&, EventWriter& writer) {
    writer.Write(EventIn(v1::JOB_STATE_QUEUED, 1));
    writer.Write(EncodingEvent(2));
    writer.Write(EventIn(state, 3));
    return grpc::Status::OK;
  }};
}

TEST(QuantizeProgramTest, Success_PrintsASummary) {
  const ScriptedServer server(JobThatEnds(v1::JOB_STATE_SUCCEEDED));
  const Outcome outcome = RunProgram(Quantize(server.address()));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output,
            "job             job-7f3a09c2d41b\n"
            "state           succeeded\n"
            "source          tiny\n"
            "output          tiny-2bit\n"
            "recipe          icquant:bits=2\n"
            "device          cuda:0\n"
            "bits/weight     2.341 linear layers, 3.912 all tensors\n"
            "size            52.3 MB\n"
            "measured on     inline (10,240 tokens scored)\n"
            "perplexity      16.000 source, 20.000 packed (+25.0 %)\n"
            "KL divergence   0.2500 nats mean, 1.500 99th percentile\n"
            "same top token  75.5 %\n"
            "time            2m 14s\n"
            "path            /models/tiny-2bit\n");
  EXPECT_EQ(outcome.error,
            "job-7f3a09c2d41b: tiny -> tiny-2bit\n"
            "queued\n"
            "encoding 2%, 2/100, 2.34 b/w, model.layers.2.mlp.down_proj.weight\n");
}

TEST(QuantizeProgramTest, Failure_IsStatus4AndSaysWhy) {
  const ScriptedServer failing(JobThatEnds(v1::JOB_STATE_FAILED));
  const Outcome failed = RunProgram(Quantize(failing.address()));
  EXPECT_EQ(failed.status, 4);
  EXPECT_EQ(failed.output, "");
  EXPECT_THAT(
      failed.error,
      HasSubstr("error: job-7f3a09c2d41b failed: RESOURCE_EXHAUSTED: no space left on device\n"));
  const ScriptedServer cancelling(JobThatEnds(v1::JOB_STATE_CANCELLED));
  const Outcome cancelled = RunProgram(Quantize(cancelling.address()));
  EXPECT_EQ(cancelled.status, 4);
  EXPECT_THAT(cancelled.error, HasSubstr("job-7f3a09c2d41b was cancelled\n"));
}

TEST(QuantizeProgramTest, Json_IsALinePerEvent) {
  const ScriptedServer server(JobThatEnds(v1::JOB_STATE_FAILED));
  const Outcome outcome = RunProgram(Quantize(server.address(), {"--json"}));
  EXPECT_EQ(outcome.status, 4);
  EXPECT_EQ(outcome.error, "");
  const std::vector<v1::QuantizeEvent> events = Events(outcome.output);
  ASSERT_EQ(events.size(), 3u);
  using google::protobuf::util::MessageDifferencer;
  EXPECT_TRUE(MessageDifferencer::Equals(events[1], EncodingEvent(2)));
  EXPECT_TRUE(MessageDifferencer::Equals(events[2], EventIn(v1::JOB_STATE_FAILED, 3)));
}

TEST(QuantizeProgramTest, Options_BecomeTheRequest) {
  v1::QuantizeRequest request;
  const ScriptedServer server({.quantize = [&](auto&, const auto& received, EventWriter& writer) {
    request = received;
    writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 1));
    return grpc::Status::OK;
  }});
  const std::string calibration = TemporaryFile("calibration.txt", "größe\n");
  const std::string evaluation = TemporaryFile("evaluation.txt", "text");
  ASSERT_EQ(RunProgram(Quantize(server.address(), {"--embedding-recipe",
                                                   "icquant:bits=4",
                                                   "--override",
                                                   "*.down_proj.weight=icquant:bits=4,outliers=0.1",
                                                   "--override",
                                                   "lm_head*=raw",
                                                   "--calibration",
                                                   calibration,
                                                   "--calibration-tokens",
                                                   "0",
                                                   "--evaluate",
                                                   evaluation,
                                                   "--windows",
                                                   "40",
                                                   "--window-tokens",
                                                   "256",
                                                   "--seed",
                                                   "18446744073709551615",
                                                   "--request-id",
                                                   "nightly.1"}))
                .status,
            0);
  v1::QuantizeRequest expected;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
      request_id: "nightly.1" source: "tiny" output: "tiny-2bit" recipe: "icquant:bits=2"
      embedding_recipe: "icquant:bits=4"
      overrides { pattern: "*.down_proj.weight" recipe: "icquant:bits=4,outliers=0.1" }
      overrides { pattern: "lm_head*" recipe: "raw" }
      calibration { inline_text: "gr\303\266\303\237e\n" tokens: 0 }
      evaluation { inline_text: "text" windows: 40 window_tokens: 256 }
      seed: 18446744073709551615)",
                                                            &expected));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(request, expected))
      << request.DebugString();
}

TEST(QuantizeProgramTest, ServerPaths_AreSentAsPaths) {
  v1::QuantizeRequest request;
  const ScriptedServer server({.quantize = [&](auto&, const auto& received, EventWriter& writer) {
    request = received;
    writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 1));
    return grpc::Status::OK;
  }});
  RunProgram(
      Quantize(server.address(), {"--calibration-path", "c.txt", "--evaluate-path", "e.txt"}));
  EXPECT_EQ(request.calibration().path(), "c.txt");
  EXPECT_FALSE(request.calibration().has_tokens());
  EXPECT_EQ(request.evaluation().path(), "e.txt");
  EXPECT_THAT(request.request_id(), testing::MatchesRegex("cli-[0-9a-f]{16}"));
}

TEST(QuantizeProgramTest, LocalText_IsCheckedBeforeItIsSent) {
  const auto run = [](const std::string& path) {
    return RunProgram(Quantize("127.0.0.1:1", {"--evaluate", path}));
  };
  const Outcome missing = run("/no/such/file");
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.error, HasSubstr("NOT_FOUND: cannot open '/no/such/file'"));
  EXPECT_THAT(run(TemporaryFile("bad.txt", "a\xFF")).error, HasSubstr("is not UTF-8"));
  const Outcome large = run(TemporaryFile("large.txt", std::string((2 << 20) + 1, 'x')));
  EXPECT_THAT(large.error, HasSubstr("2,097,152 bytes"));
  EXPECT_THAT(large.error, HasSubstr("--evaluate-path"));
  EXPECT_THAT(run(testing::TempDir()).error, HasSubstr("cannot read"));
}

TEST(QuantizeProgramTest, LostConnection_IsTakenUpAgainWithoutLossOrRepetition) {
  std::optional<ScriptedServer> first(
      std::in_place, Script{.quantize = [](auto& context, const auto&, EventWriter& writer) {
        for (uint64_t i = 1; i <= 3; ++i) writer.Write(EncodingEvent(i));
        AwaitCancellation(context);
        return grpc::Status::CANCELLED;
      }});
  const std::string address = first->address();
  Program program(Quantize(address, {"--json"}));
  ASSERT_TRUE(program.AwaitOutput("model.layers.3.")) << program.error();
  first.reset();
  const ScriptedServer second({.watch_job =
                                   [](auto&, const auto& request, EventWriter& writer) {
                                     for (uint64_t i = request.from_sequence(); i <= 6; ++i)
                                       writer.Write(EncodingEvent(i));
                                     writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 7));
                                     return grpc::Status::OK;
                                   }},
                              address);
  EXPECT_EQ(program.Wait(), 0);
  std::vector<uint64_t> sequences;
  for (const auto& event : Events(program.output())) sequences.push_back(event.sequence());
  EXPECT_THAT(sequences, ElementsAre(1, 2, 3, 4, 5, 6, 7));
}

TEST(QuantizeProgramTest, Interrupt_DetachesAndTellsHowToGoOn) {
  std::atomic<int> cancels = 0;
  const ScriptedServer server({.quantize =
                                   [](auto& context, const auto&, EventWriter& writer) {
                                     writer.Write(EncodingEvent(1));
                                     AwaitCancellation(context);
                                     return grpc::Status::CANCELLED;
                                   },
                               .cancel_job =
                                   [&](auto&, const auto&, auto*) {
                                     ++cancels;
                                     return grpc::Status::OK;
                                   }});
  Program program(Quantize(server.address()));
  ASSERT_TRUE(program.AwaitError("encoding"));
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_THAT(program.error(), HasSubstr("quantloom watch job-7f3a09c2d41b"));
  EXPECT_THAT(program.error(), HasSubstr("quantloom cancel job-7f3a09c2d41b"));
  EXPECT_EQ(cancels, 0);
}

TEST(QuantizeProgramTest, Interrupt_EndsThePauseAfterALostConnection) {
  std::optional<ScriptedServer> server(
      std::in_place, Script{.quantize = [](auto& context, const auto&, EventWriter& writer) {
        writer.Write(EncodingEvent(1));
        AwaitCancellation(context);
        return grpc::Status::CANCELLED;
      }});
  Program program(Quantize(server->address()));
  ASSERT_TRUE(program.AwaitError("encoding"));
  server.reset();
  ASSERT_TRUE(program.AwaitError("connection lost"));
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 130);
}

TEST(QuantizeProgramTest, Timeout_EndsTheWatchingOnly) {
  const ScriptedServer server({.quantize = [](auto& context, const auto&, EventWriter& writer) {
    writer.Write(EncodingEvent(1));
    AwaitCancellation(context);
    return grpc::Status::CANCELLED;
  }});
  const Outcome outcome = RunProgram(Quantize(server.address(), {"--timeout", "0.3"}));
  EXPECT_EQ(outcome.status, 5);
  EXPECT_THAT(outcome.error, HasSubstr("DEADLINE_EXCEEDED"));
}

TEST(QuantizeProgramTest, Detach_PrintsTheJobAndReturns) {
  const ScriptedServer server({.quantize = [](auto& context, const auto&, EventWriter& writer) {
    writer.Write(EventIn(v1::JOB_STATE_QUEUED, 1));
    AwaitCancellation(context);
    return grpc::Status::CANCELLED;
  }});
  const Outcome outcome = RunProgram(Quantize(server.address(), {"--detach"}));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "job-7f3a09c2d41b\n");
  EXPECT_THAT(outcome.error, HasSubstr("quantloom watch job-7f3a09c2d41b"));
  EXPECT_EQ(Events(RunProgram(Quantize(server.address(), {"--detach", "--json"})).output).size(),
            1u);
}

TEST(QuantizeProgramTest, Terminal_ShowsOneLiveLineThatFits) {
  const ScriptedServer server({.quantize = [](auto&, const auto&, EventWriter& writer) {
    writer.Write(EventIn(v1::JOB_STATE_QUEUED, 1));
    for (uint64_t i = 2; i <= 5; ++i) {
      writer.Write(EncodingEvent(i));
      std::this_thread::sleep_for(std::chrono::milliseconds(60));
    }
    writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 6));
    return grpc::Status::OK;
  }});
  const Outcome outcome = RunProgram(Quantize(server.address()), {.terminal = true, .columns = 60});
  EXPECT_EQ(outcome.status, 0);
  // What a reader sees: each line is rewritten in place, so that no newline falls between two
  // states of it.
  const size_t first_live = outcome.output.find("\rencoding");
  const size_t summary = outcome.output.find("job             job-");
  ASSERT_NE(first_live, std::string::npos) << outcome.output;
  const std::string live =
      outcome.output.substr(first_live, outcome.output.find('\n', first_live) - first_live);
  EXPECT_THAT(live, HasSubstr("\x1b[K\rencoding"));
  EXPECT_THAT(live, HasSubstr("░"));
  EXPECT_THAT(outcome.output, HasSubstr("✓"));
  ASSERT_NE(summary, std::string::npos);
  // Nothing of the live line is left before the summary.
  EXPECT_EQ(outcome.output.substr(summary - 6, 6), "s\x1b[0m\n") << outcome.output;
}

TEST(WatchProgramTest, Watch_StartsWhereItIsTold) {
  uint64_t from = 0;
  std::string job;
  const ScriptedServer server({.watch_job = [&](auto&, const auto& request, EventWriter& writer) {
    from = request.from_sequence();
    job = request.name();
    writer.Write(EventIn(v1::JOB_STATE_SUCCEEDED, 12));
    return grpc::Status::OK;
  }});
  const Outcome outcome =
      RunProgram({"watch", kJobName, "--from", "12", "--quantizer", server.address()});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(from, 12u);
  EXPECT_EQ(job, kJobName);
  EXPECT_THAT(outcome.output, HasSubstr("/models/tiny-2bit"));
}

TEST(WatchProgramTest, UnknownJob_IsNotFound) {
  const ScriptedServer server({.watch_job = [](auto&, const auto&, EventWriter&) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such job");
  }});
  const Outcome outcome = RunProgram({"watch", "job-x", "--quantizer", server.address()});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.error, "error: NOT_FOUND: no such job\n");
}

}  // namespace
}  // namespace quantloom::cli
