// A service that says who calls it, behind a GrpcServer on loopback.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "quantloom/v1/quantization.grpc.pb.h"
#include "services/common/grpc_server.h"
#include "tests/temporary_directory.h"

namespace quantloom::testing {

// GetJob answers with a job whose name is the caller's; WatchJob sends events without end, and
// fails as GetJob does when the caller may not call.
class CallerService final : public v1::QuantizationService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context, const v1::GetJobRequest*,
                                   v1::Job* job) override;
  grpc::ServerWriteReactor<v1::QuantizeEvent>* WatchJob(grpc::CallbackServerContext* context,
                                                        const v1::WatchJobRequest*) override;
};

class CallerServerTest : public ::testing::Test {
 protected:
  CallerServerTest();
  void StartServer();

  // A connection of its own.
  std::shared_ptr<grpc::Channel> Connect(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials) const;
  // A file in a directory of the test's.
  std::string Path(const std::string& name) const { return (directory_.path() / name).string(); }

  struct Answer {
    absl::Status status;
    std::string caller;
  };
  // GetJob with a token, unless it is empty.
  static Answer Call(const std::shared_ptr<grpc::Channel>& channel, const std::string& token = "");
  Answer Call(const std::string& token = "") { return Call(channel_, token); }
  // The body of /metrics once `text` is in it.
  std::string Scrape(const std::string& text) const;

  TemporaryDirectory directory_;
  GrpcServerOptions options_;  // loopback, free ports, no watch of files
  CallerService service_;
  Metrics metrics_{"quantloom-test"};
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;  // without TLS
};

}  // namespace quantloom::testing
