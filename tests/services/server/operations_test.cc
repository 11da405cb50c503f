// What operators see of requests: ids and traces in answers and log lines, and the running batch.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/base/json.h"
#include "services/common/trace_context.h"
#include "tests/services/common/service_process.h"
#include "tests/services/server/models_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kTraceparent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

std::string Sent(const grpc::ClientContext& context, const char* key) {
  const auto& metadata = context.GetServerInitialMetadata();
  const auto found = metadata.find(key);
  return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
}

class OperationsTest : public ModelsTest {
 protected:
  // A stream that goes on until it is read.
  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader;
  };
  std::unique_ptr<Stream> StartStream(const std::string& request_id, const std::string& client) {
    v1::GenerateRequest request = Request("the rain", 3000);
    request.set_client(client);
    request.set_priority(v1::PRIORITY_HIGH);
    request.set_logprobs(20);
    auto stream = std::make_unique<Stream>();
    stream->context.AddMetadata("x-request-id", request_id);
    stream->reader = generation_->Generate(&stream->context, request);
    v1::GenerateResponse response;
    EXPECT_TRUE(stream->reader->Read(&response));
    return stream;
  }
  absl::StatusOr<v1::RunningBatch> Batch(const std::string& model = "") {
    v1::GetRunningBatchRequest request;
    request.set_model(model);
    v1::RunningBatch batch;
    grpc::ClientContext context;
    const absl::Status status = FromGrpcStatus(models_->GetRunningBatch(&context, request, &batch));
    if (!status.ok()) return status;
    return batch;
  }
};

TEST_F(OperationsTest, Answers_CarryTheRequestsIdAndTraceOrNewOnes) {
  StartServer();
  grpc::ClientContext named;
  named.AddMetadata("x-request-id", "order-17");
  named.AddMetadata("traceparent", kTraceparent);
  v1::ServerInfo info;
  ASSERT_TRUE(models_->GetServerInfo(&named, {}, &info).ok());
  EXPECT_EQ(Sent(named, "x-request-id"), "order-17");
  const auto trace = ParseTraceparent(Sent(named, "traceparent"));
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_NE(trace->parent_id, "00f067aa0ba902b7") << "the server's own span";
  EXPECT_TRUE(trace->sampled);

  grpc::ClientContext wrong;
  wrong.AddMetadata("x-request-id", std::string(kMaxRequestIdBytes + 1, 'x'));
  wrong.AddMetadata("traceparent", "00-0-0-00");
  ASSERT_TRUE(models_->GetServerInfo(&wrong, {}, &info).ok()) << "never an error";
  EXPECT_EQ(Sent(wrong, "x-request-id").size(), 32u);
  EXPECT_TRUE(ParseTraceparent(Sent(wrong, "traceparent")).has_value());

  const auto stream = StartStream("stream-1", "a");
  EXPECT_EQ(Sent(stream->context, "x-request-id"), "stream-1");
}

TEST_F(OperationsTest, RunningBatch_ShowsWhatRunsAndWaitsWithoutText) {
  options_.engine.max_running = 1;
  options_.engine.kv_tokens = 8192;
  StartServer();
  const auto running = StartStream("first", "alice");
  auto waiting = std::make_unique<Stream>();
  waiting->context.AddMetadata("x-request-id", "second");
  v1::GenerateRequest request = Request("wait here", 3000);
  request.set_client("bob");
  request.set_logprobs(20);
  waiting->reader = generation_->Generate(&waiting->context, request);
  // The first gives its place up once its client has not read for a while.
  v1::EngineState engine;
  for (const absl::Time end = absl::Now() + absl::Minutes(1);
       engine.sequences_size() < 2 && absl::Now() < end;) {
    const auto batch = Batch("tiny");
    ASSERT_TRUE(batch.ok()) << batch.status();
    ASSERT_EQ(batch->engines_size(), 1);
    engine = batch->engines(0);
  }
  ASSERT_EQ(engine.sequences_size(), 2);
  EXPECT_EQ(engine.model(), "tiny");
  EXPECT_EQ(engine.manifest_sha256(), List()[0].manifest_sha256());
  EXPECT_FALSE(engine.ending());
  EXPECT_EQ(engine.kv_block_tokens(), 16u);
  EXPECT_GT(engine.kv_blocks_total(), 0u);
  EXPECT_GT(engine.steps(), 0u);
  for (const v1::SequenceState& sequence : engine.sequences()) {
    const bool first = sequence.request_id() == "first";
    EXPECT_EQ(sequence.request_id(), first ? "first" : "second");
    EXPECT_EQ(sequence.client(), first ? "alice" : "bob");
    EXPECT_EQ(sequence.priority(), first ? v1::PRIORITY_HIGH : v1::PRIORITY_NORMAL);
    EXPECT_GT(sequence.prompt_tokens(), 0u);
    EXPECT_FALSE(sequence.scoring());
    if (first) {
      EXPECT_GT(sequence.generated_tokens(), 0u);
      EXPECT_GT(sequence.age().seconds() + sequence.age().nanos(), 0);
    }
    if (sequence.phase() == v1::SEQUENCE_PHASE_WAITING) {
      EXPECT_EQ(sequence.kv_blocks(), 0u);
    } else {
      EXPECT_GT(sequence.kv_blocks(), 0u);
    }
  }
  EXPECT_THAT(engine.DebugString(), Not(HasSubstr("rain")));
  running->context.TryCancel();
  waiting->context.TryCancel();
  ExpectIdle();
  EXPECT_EQ(Batch()->engines(0).sequences_size(), 0);
}

TEST_F(OperationsTest, RunningBatch_OfAnotherModelIsRefused) {
  WritePackedModel(root_.path(), "other", /*seed=*/2);
  StartServer();
  EXPECT_EQ(Batch("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Batch("../tiny").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Batch("other").status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Batch().ok());
  EXPECT_EQ(Batch()->engines_size(), 1);
}

// The line of the access log with this request id, once it is there.
std::optional<nlohmann::json> AccessLine(const ServiceProcess& server, const std::string& id) {
  for (const absl::Time end = absl::Now() + absl::Minutes(1); absl::Now() < end;) {
    for (const absl::string_view text : absl::StrSplit(server.Log(), '\n')) {
      const auto line = ParseJsonObject(std::string(text));
      if (line.ok() && line->value("message", "") == "rpc" && line->value("request_id", "") == id) {
        return *line;
      }
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  return std::nullopt;
}

TEST(AccessLogTest, EachCallHasOneJsonLineWithIdsAndCountsAndNoText) {
  const TemporaryDirectory directory;
  WritePackedModel(directory.path() / "models", "tiny", /*seed=*/1);
  ServiceProcess server(QUANTLOOM_SERVER,
                        {absl::StrCat("--model-root=", (directory.path() / "models").string()),
                         "--load=tiny", "--log-format=json"},
                        directory.path());
  const auto channel = NewChannel(server.port());
  const auto stub = v1::GenerationService::NewStub(channel);
  while (CheckHealth(channel, "") != Health::kServing) absl::SleepFor(absl::Milliseconds(5));

  v1::GenerateRequest request;
  request.set_prompt("the secret prompt");
  request.set_max_tokens(7);
  request.set_ignore_eos(true);
  const auto generate = [&](const std::string& id) {
    grpc::ClientContext context;
    context.AddMetadata("x-request-id", id);
    context.AddMetadata("traceparent", kTraceparent);
    const auto stream = stub->Generate(&context, request);
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  };
  ASSERT_TRUE(generate("good").ok());
  request.set_logprobs(99);
  ASSERT_EQ(generate("bad").error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  const auto good = AccessLine(server, "good");
  ASSERT_TRUE(good.has_value()) << server.Log();
  EXPECT_EQ((*good)["level"], "info");
  EXPECT_EQ((*good)["method"], "quantloom.v1.GenerationService/Generate");
  EXPECT_EQ((*good)["code"], "OK");
  EXPECT_EQ((*good)["model"], "tiny");
  EXPECT_GT((*good)["seconds"].get<double>(), 0);
  EXPECT_EQ((*good)["generated_tokens"], 7);
  EXPECT_GT((*good)["prompt_tokens"].get<int>(), 3);
  EXPECT_EQ((*good)["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ((*good)["parent_span_id"], "00f067aa0ba902b7");
  EXPECT_EQ((*good)["span_id"].get<std::string>().size(), 16u);
  const auto bad = AccessLine(server, "bad");
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ((*bad)["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(bad->count("generated_tokens"), 0u);
  EXPECT_THAT(server.Log(), Not(HasSubstr("secret")));
  EXPECT_THAT(server.Log(), Not(HasSubstr("grpc.health"))) << "health checks are not worth a line";
}

}  // namespace
}  // namespace quantloom::testing
