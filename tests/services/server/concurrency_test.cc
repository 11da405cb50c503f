// Many streams at once, and clients that cancel, run out of time, stop reading or die.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/services/server/server_fixture.h"
#include "tests/services/server/stream_client_process.h"

namespace quantloom::testing {
namespace {

constexpr int kStreams = 32;
constexpr uint32_t kTokens = 80;
constexpr uint32_t kManyTokens = 3000;  // more than any client waits for

std::string StoryPrompt(int i) {
  std::string prompt = absl::StrCat("Story ", i, ":");
  for (int word = 0; word < 25 * (i % 4); ++word) prompt += absl::StrCat(" ", word + i);
  return prompt;
}

// Reads `responses` responses, then cancels. Returns the text read.
std::string CancelMidway(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request,
                         int responses) {
  grpc::ClientContext context;
  const auto stream = stub.Generate(&context, request);
  std::string text;
  v1::GenerateResponse response;
  for (int i = 0; i < responses && stream->Read(&response); ++i) text += response.text();
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  return text;
}

using ConcurrencyTest = ServerTest;

TEST_F(ConcurrencyTest, SurvivingStreams_GiveTheirTextWhateverOthersDo) {
  options_.engine.max_running = 8;
  options_.engine.max_waiting = 64;
  options_.engine.kv_tokens = 8192;  // fewer than all want: some requests wait or are preempted
  StartServer();
  std::vector<std::string> alone;
  for (int i = 0; i < kStreams; ++i) {
    const Generated generated = Generate(Request(StoryPrompt(i), kTokens));
    ASSERT_TRUE(generated.status.ok()) << generated.status;
    alone.push_back(generated.text);
  }

  std::vector<std::thread> clients;
  clients.reserve(kStreams);
  for (int i = 0; i < kStreams; ++i) {
    clients.emplace_back([this, i, &alone] {
      const auto channel = NewChannel(server_->port());
      const auto stub = v1::GenerationService::NewStub(channel);
      switch (i % 4) {
        case 0:
        case 1: {
          const Generated whole =
              ReadStream(*stub, Request(StoryPrompt(i), kTokens), absl::InfiniteDuration());
          EXPECT_TRUE(whole.status.ok()) << whole.status;
          EXPECT_EQ(whole.text, alone[i]);
          break;
        }
        case 2: {
          const std::string text =
              CancelMidway(*stub, Request(StoryPrompt(i), kManyTokens), 1 + i / 4);
          const std::string common = alone[i].substr(0, text.size());
          EXPECT_EQ(text.substr(0, common.size()), common);
          break;
        }
        default: {
          const Generated cut =
              ReadStream(*stub, Request(StoryPrompt(i), kManyTokens), absl::Milliseconds(50));
          EXPECT_EQ(cut.status.code(), absl::StatusCode::kDeadlineExceeded) << cut.status;
        }
      }
    });
  }
  std::vector<std::thread> killers;
  for (int i = 0; i < 4; ++i) {
    killers.emplace_back(
        [this] { StreamClient(server_->port(), /*streams=*/1).KillMidway(absl::ZeroDuration()); });
  }
  for (std::thread& client : clients) client.join();
  for (std::thread& killer : killers) killer.join();
  ExpectIdle();
  EXPECT_EQ(Generate(Request(StoryPrompt(5), kTokens)).text, alone[5]);
}

TEST_F(ConcurrencyTest, ClosedChannel_EndsItsStream) {
  StartServer();
  {
    auto channel = NewChannel(server_->port());
    auto stub = v1::GenerationService::NewStub(channel);
    CancelMidway(*stub, Request("gone", kManyTokens), 1);
  }
  ExpectIdle();
}

// A flow control window, what gRPC takes before it looks at that, and one gathered response.
constexpr size_t kMostHeldBytes = size_t{256} << 10;

// Long lines make a window's worth of bytes in few tokens.
v1::GenerateRequest VerboseRequest() {
  v1::GenerateRequest request;
  request.set_prompt("a long story");
  request.set_max_tokens(kManyTokens);
  request.set_ignore_eos(true);
  request.set_logprobs(20);
  return request;
}

TEST_F(ConcurrencyTest, StreamThatDoesNotRead_IsPausedAndHurtsNobody) {
  StartServer();
  const Generated expected = Generate(VerboseRequest());
  ASSERT_TRUE(expected.status.ok()) << expected.status;
  ASSERT_EQ(expected.tokens.size(), kManyTokens);
  const std::string other = Generate(Request("other", 50)).text;

  const auto channel = NewChannel(server_->port());
  const auto stub = v1::GenerationService::NewStub(channel);
  grpc::ClientContext context;
  const auto stream = stub->Generate(&context, VerboseRequest());
  // It goes on until windows and buffers are full, and then stands still.
  const uint64_t before = Stats().generated_tokens;
  uint64_t generated = 0;
  for (uint64_t last = 1; generated != last;) {
    last = generated;
    absl::SleepFor(absl::Milliseconds(500));
    generated = Stats().generated_tokens - before;
  }
  EXPECT_GT(generated, 0u);
  EXPECT_LT(generated, kManyTokens * 3 / 4);
  EXPECT_EQ(Generate(Request("other", 50)).text, other);

  std::string text;
  size_t tokens = 0;
  size_t held_bytes = 0;  // of what had been generated when it stood still
  v1::GenerateResponse response;
  while (stream->Read(&response)) {
    if (tokens < generated) held_bytes += response.ByteSizeLong();
    text += response.text();
    tokens += response.tokens_size();
  }
  EXPECT_LT(held_bytes, kMostHeldBytes);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(tokens, kManyTokens);
  EXPECT_EQ(text, expected.text);
  ExpectIdle();
}

TEST_F(ConcurrencyTest, StreamsThatDoNotRead_HoldUpNoOtherOfTheirConnection) {
  options_.engine.max_running = 8;
  StartServer();
  const std::string expected = Generate(Request("beside", 200)).text;
  const auto channel = NewChannel(server_->port());
  const auto stub = v1::GenerationService::NewStub(channel);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> streams;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub->Generate(contexts.back().get(), VerboseRequest()));
  }
  absl::SleepFor(absl::Milliseconds(500));  // until their windows are full
  const Generated beside = ReadStream(*stub, Request("beside", 200), absl::Minutes(1));
  EXPECT_TRUE(beside.status.ok()) << beside.status;
  EXPECT_EQ(beside.text, expected);
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& stream : streams) {
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  ExpectIdle();
}

TEST_F(ConcurrencyTest, StreamThatDoesNotRead_EndsAtItsDeadlineAndWhenCancelled) {
  StartServer();
  for (const bool cancel : {false, true}) {
    const auto channel = NewChannel(server_->port());
    const auto stub = v1::GenerationService::NewStub(channel);
    grpc::ClientContext context;
    if (!cancel) context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
    const auto stream = stub->Generate(&context, VerboseRequest());
    absl::SleepFor(absl::Milliseconds(500));
    if (cancel) context.TryCancel();
    ExpectIdle();
    context.TryCancel();
  }
}

TEST_F(ConcurrencyTest, Drain_EndsStreamsThatOutlastTheGracePeriod) {
  options_.grpc.grace_period = absl::Milliseconds(300);
  StartServer();
  grpc::ClientContext context;
  const auto stream = generation_->Generate(&context, Request("long", 4000));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::thread drain([this] { server_->Drain(); });
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  drain.join();
  // A fast machine may generate all of it in time.
  if (response.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  }
  server_.reset();
}

TEST_F(ConcurrencyTest, Drain_LetsShortStreamsFinishAndRefusesNewOnes) {
  options_.grpc.grace_period = absl::Seconds(60);
  StartServer();
  const std::string expected = Generate(Request("short", 400)).text;
  grpc::ClientContext context;
  const auto stream = generation_->Generate(&context, Request("short", 400));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::string text = response.text();
  server_->models().StopAdmitting();
  EXPECT_EQ(Generate(Request("new", 4)).status.code(), absl::StatusCode::kUnavailable);
  std::thread drain([this] { server_->Drain(); });
  while (stream->Read(&response)) text += response.text();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(text, expected);
  drain.join();
  server_.reset();
}

}  // namespace
}  // namespace quantloom::testing
