#include "tests/services/server/server_fixture.h"

#include <grpcpp/create_channel.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/rpc_status.h"

namespace quantloom::testing {

std::vector<int32_t> Generated::ids() const {
  std::vector<int32_t> ids;
  for (const v1::GeneratedToken& token : tokens) ids.push_back(token.id());
  return ids;
}

std::shared_ptr<grpc::Channel> NewChannel(int port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  // A fixed flow control window of 64 KiB: a client that does not read soon stops the server.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                   grpc::InsecureChannelCredentials(), arguments);
}

Generated ReadStream(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request,
                     absl::Duration timeout) {
  grpc::ClientContext context;
  if (timeout != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  const auto stream = stub.Generate(&context, request);
  Generated generated;
  v1::GenerateResponse response;
  while (stream->Read(&response)) {
    if (generated.responses++ == 0) generated.first = response;
    if (response.has_echo()) ++generated.echoes;
    generated.text += response.text();
    for (const v1::GeneratedToken& token : response.tokens()) generated.tokens.push_back(token);
    generated.last = response;
  }
  generated.status = FromGrpcStatus(stream->Finish());
  return generated;
}

void ServerTest::SetUp() {
  WritePackedModel(root_.path(), "tiny", /*seed=*/1);
  options_.grpc.address = "127.0.0.1:0";
  options_.grpc.metrics_address = "";  // its HTTP server takes two seconds to stop
  options_.grpc.grace_period = absl::Seconds(1);
  options_.model_root = root_.path();
  options_.threads = 2;
  options_.load = {"tiny"};
}

void ServerTest::TearDown() { StopServer(); }

void ServerTest::StartServer() {
  auto server = Server::Start(options_, device_);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  const absl::Status loaded = server_->LoadModels([] { return false; });
  ASSERT_TRUE(loaded.ok()) << loaded;
  channel_ = NewChannel(server_->port());
  generation_ = v1::GenerationService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
}

void ServerTest::StopServer() {
  if (server_ == nullptr) return;
  server_->Drain();
  server_.reset();
}

v1::GenerateRequest ServerTest::Request(const std::string& prompt, uint32_t tokens) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  request.set_max_tokens(tokens);
  request.set_ignore_eos(true);
  return request;
}

Generated ServerTest::Generate(const v1::GenerateRequest& request, absl::Duration timeout) {
  return ReadStream(*generation_, request, timeout);
}

EngineStats ServerTest::Stats(const std::string& model) {
  const auto lease = server_->models().Acquire(model);
  EXPECT_TRUE(lease.ok()) << lease.status();
  return lease.ok() ? (*lease)->engine->stats() : EngineStats();
}

void ServerTest::ExpectIdle(const std::string& model) {
  EngineStats stats;
  for (const absl::Time end = absl::Now() + absl::Minutes(1); absl::Now() < end;) {
    stats = Stats(model);
    if (stats.requests_running + stats.requests_waiting + stats.kv_blocks_used == 0) return;
    absl::SleepFor(absl::Milliseconds(5));
  }
  ADD_FAILURE() << "running " << stats.requests_running << ", waiting " << stats.requests_waiting
                << ", KV blocks " << stats.kv_blocks_used;
}

}  // namespace quantloom::testing
