#include "tests/cli/scripted_services.h"

#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace quantloom::cli {
namespace {

grpc::Status Unimplemented() { return {grpc::StatusCode::UNIMPLEMENTED, "not in the script"}; }

template <typename Function, typename Request, typename Response>
grpc::Status Run(const Function& function, grpc::ServerContext* context, const Request* request,
                 Response* response) {
  if (!function) return Unimplemented();
  if constexpr (std::is_invocable_v<Function, grpc::ServerContext&, const Request&, Response*>) {
    return function(*context, *request, response);
  } else {
    return function(*context, *request, *response);
  }
}

class Quantization final : public v1::QuantizationService::Service {
 public:
  explicit Quantization(const Script& script) : script_(script) {}
  grpc::Status Quantize(grpc::ServerContext* context, const v1::QuantizeRequest* request,
                        grpc::ServerWriter<v1::QuantizeEvent>* writer) override {
    return Run(script_.quantize, context, request, writer);
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::QuantizeEvent>* writer) override {
    return Run(script_.watch_job, context, request, writer);
  }
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override {
    return Run(script_.list_jobs, context, request, response);
  }
  grpc::Status CancelJob(grpc::ServerContext* context, const v1::CancelJobRequest* request,
                         v1::Job* response) override {
    return Run(script_.cancel_job, context, request, response);
  }
  grpc::Status Evaluate(grpc::ServerContext* context, const v1::EvaluateRequest* request,
                        grpc::ServerWriter<v1::EvaluateResponse>* writer) override {
    return Run(script_.evaluate, context, request, writer);
  }

 private:
  const Script& script_;
};

class Generation final : public v1::GenerationService::Service {
 public:
  explicit Generation(const Script& script) : script_(script) {}
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    return Run(script_.generate, context, request, writer);
  }
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    return Run(script_.score, context, request, response);
  }
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    return Run(script_.tokenize, context, request, response);
  }
  grpc::Status Detokenize(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    return Run(script_.detokenize, context, request, response);
  }

 private:
  const Script& script_;
};

class Models final : public v1::ModelService::Service {
 public:
  explicit Models(const Script& script) : script_(script) {}
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override {
    return Run(script_.list_models, context, request, response);
  }
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::Model* response) override {
    return Run(script_.get_model, context, request, response);
  }
  grpc::Status LoadModel(grpc::ServerContext* context, const v1::LoadModelRequest* request,
                         v1::Model* response) override {
    return Run(script_.load_model, context, request, response);
  }
  grpc::Status UnloadModel(grpc::ServerContext* context, const v1::UnloadModelRequest* request,
                           v1::Model* response) override {
    return Run(script_.unload_model, context, request, response);
  }
  grpc::Status GetRunningBatch(grpc::ServerContext* context,
                               const v1::GetRunningBatchRequest* request,
                               v1::RunningBatch* response) override {
    return Run(script_.get_running_batch, context, request, response);
  }
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest* request,
                             v1::ServerInfo* response) override {
    return Run(script_.get_server_info, context, request, response);
  }

 private:
  const Script& script_;
};

}  // namespace

struct ScriptedServer::Services {
  explicit Services(Script scripted) : script(std::move(scripted)) {}

  const Script script;
  const std::unique_ptr<grpc::Service> quantization = std::make_unique<Quantization>(script);
  const std::unique_ptr<grpc::Service> generation = std::make_unique<Generation>(script);
  const std::unique_ptr<grpc::Service> models = std::make_unique<Models>(script);
};

ScriptedServer::ScriptedServer(Script script, const std::string& address)
    : services_(std::make_unique<Services>(std::move(script))) {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(services_->quantization.get());
  builder.RegisterService(services_->generation.get());
  builder.RegisterService(services_->models.get());
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

ScriptedServer::~ScriptedServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

grpc::Status RetryAfter(grpc::StatusCode code, const std::string& message, int milliseconds) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(milliseconds / 1000);
  retry.mutable_retry_delay()->set_nanos(milliseconds % 1000 * 1'000'000);
  google::rpc::Status details;
  details.set_code(code);
  details.add_details()->PackFrom(retry);
  return {code, message, details.SerializeAsString()};
}

grpc::Status BadField(const std::string& message, const std::string& field,
                      const std::string& description) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(field);
  violation->set_description(description);
  google::rpc::Status details;
  details.set_code(grpc::StatusCode::INVALID_ARGUMENT);
  details.add_details()->PackFrom(bad_request);
  return {grpc::StatusCode::INVALID_ARGUMENT, message, details.SerializeAsString()};
}

void AwaitCancellation(grpc::ServerContext& context) {
  while (!context.IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

}  // namespace quantloom::cli
