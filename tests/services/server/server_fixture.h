// A server in this process over loopback, with tiny packed models, and short ways to call it.
#pragma once

#include <grpcpp/channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "quantloom/v1/generation.grpc.pb.h"
#include "quantloom/v1/model.grpc.pb.h"
#include "services/server/server.h"
#include "tests/services/common/health.h"
#include "tests/services/server/packed_model.h"
#include "tests/tiny_model.h"

namespace quantloom::testing {

// What came over a stream.
struct Generated {
  absl::Status status;
  std::string text;
  std::vector<v1::GeneratedToken> tokens;
  v1::GenerateResponse first;
  v1::GenerateResponse last;
  int responses = 0;
  int echoes = 0;

  std::vector<int32_t> ids() const;
};

// A server whose model root holds the tiny model "tiny"; StartServer loads it.
class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // What StartServer will use: settings (loopback, free ports, two threads) and the CPU.
  ServerOptions options_;
  std::shared_ptr<const Device> device_ = OpenCpu().value();
  void StartServer();
  // Ends the server as SIGTERM does.
  void StopServer();

  // A request of `prompt` for `tokens` tokens, greedy, past the end of text.
  static v1::GenerateRequest Request(const std::string& prompt, uint32_t tokens);
  // Reads a whole stream.
  Generated Generate(const v1::GenerateRequest& request,
                     absl::Duration timeout = absl::InfiniteDuration());
  // Waits, a minute at most, until the model runs nothing and its KV cache is empty.
  void ExpectIdle(const std::string& model = "tiny");
  EngineStats Stats(const std::string& model = "tiny");

  TemporaryDirectory root_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

// A channel of its own connection.
std::shared_ptr<grpc::Channel> NewChannel(int port);
Generated ReadStream(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request,
                     absl::Duration timeout);

}  // namespace quantloom::testing
