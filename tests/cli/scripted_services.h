// Services that do what a test says: a real gRPC server on a free loopback port whose methods are
// functions.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "grpcpp/server.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/sync_stream.h"
#include "quantloom/v1/generation.grpc.pb.h"
#include "quantloom/v1/model.grpc.pb.h"
#include "quantloom/v1/quantization.grpc.pb.h"

namespace quantloom::cli {

template <typename Request, typename Response>
using Unary = std::function<grpc::Status(grpc::ServerContext&, const Request&, Response*)>;
template <typename Request, typename Response>
using Stream = std::function<grpc::Status(grpc::ServerContext&, const Request&,
                                          grpc::ServerWriter<Response>&)>;

// One function per method; a method without one is UNIMPLEMENTED. They run on gRPC's threads.
struct Script {
  Stream<v1::QuantizeRequest, v1::QuantizeEvent> quantize = nullptr;
  Stream<v1::WatchJobRequest, v1::QuantizeEvent> watch_job = nullptr;
  Unary<v1::ListJobsRequest, v1::ListJobsResponse> list_jobs = nullptr;
  Unary<v1::CancelJobRequest, v1::Job> cancel_job = nullptr;
  Stream<v1::EvaluateRequest, v1::EvaluateResponse> evaluate = nullptr;
  Stream<v1::GenerateRequest, v1::GenerateResponse> generate = nullptr;
  Unary<v1::ScoreRequest, v1::ScoreResponse> score = nullptr;
  Unary<v1::TokenizeRequest, v1::TokenizeResponse> tokenize = nullptr;
  Unary<v1::DetokenizeRequest, v1::DetokenizeResponse> detokenize = nullptr;
  Unary<v1::ListModelsRequest, v1::ListModelsResponse> list_models = nullptr;
  Unary<v1::GetModelRequest, v1::Model> get_model = nullptr;
  Unary<v1::LoadModelRequest, v1::Model> load_model = nullptr;
  Unary<v1::UnloadModelRequest, v1::Model> unload_model = nullptr;
  Unary<v1::GetRunningBatchRequest, v1::RunningBatch> get_running_batch = nullptr;
  Unary<v1::GetServerInfoRequest, v1::ServerInfo> get_server_info = nullptr;
};

// Serves a script until it is destroyed, which ends all calls at once, as a crash would.
class ScriptedServer {
 public:
  // `address` "127.0.0.1:0": a free port.
  explicit ScriptedServer(Script script, const std::string& address = "127.0.0.1:0");
  ~ScriptedServer();
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  const std::string& address() const { return address_; }

 private:
  struct Services;

  std::unique_ptr<Services> services_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

// A status with google.rpc.RetryInfo.
grpc::Status RetryAfter(grpc::StatusCode code, const std::string& message, int milliseconds);

// A status with google.rpc.BadRequest of one violation.
grpc::Status BadField(const std::string& message, const std::string& field,
                      const std::string& description);

// Waits until the caller has gone away.
void AwaitCancellation(grpc::ServerContext& context);

}  // namespace quantloom::cli
