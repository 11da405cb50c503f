#include "services/server/model_service.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "core/base/status.h"
#include "core/codec/codec.h"
#include "kernels/cpu/linear.h"
#include "services/common/proto_time.h"
#include "services/common/unary_call.h"
#include "services/common/version.h"
#include "services/server/running_batch.h"

namespace quantloom {
namespace {

constexpr int kThreads = 1;
constexpr size_t kMaxQueued = 64;

absl::StatusOr<v1::ListModelsResponse> ListAll(ModelRegistry& models) {
  QL_ASSIGN_OR_RETURN(const std::vector<v1::Model> listed, models.List());
  v1::ListModelsResponse response;
  for (const v1::Model& model : listed) *response.add_models() = model;
  return response;
}

}  // namespace

ModelServiceImpl::ModelServiceImpl(ModelRegistry& models, v1::ServerInfo info)
    : models_(models),
      info_(std::move(info)),
      pool_(kThreads, kMaxQueued),
      batch_pool_(kThreads, kMaxQueued) {}

grpc::ServerUnaryReactor* ModelServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return RunUnary<v1::ListModelsRequest>(
      *context, *request, response, pool_,
      [this](const v1::ListModelsRequest&, const UnaryCall&) { return ListAll(models_); });
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return RunUnary<v1::GetModelRequest>(*context, *request, response, pool_,
                                       [this](const v1::GetModelRequest& parsed, const UnaryCall&) {
                                         absl::StatusOr<v1::Model> model =
                                             models_.Find(parsed.name());
                                         if (model.ok() && !parsed.include_tensors())
                                           model->clear_tensors();
                                         return model;
                                       });
}

grpc::ServerUnaryReactor* ModelServiceImpl::LoadModel(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return HandleUnary<v1::LoadModelRequest>(
      *context, *request, response, pool_,
      [this](const v1::LoadModelRequest& parsed, const std::shared_ptr<UnaryCall>& call) {
        models_.Load(parsed.name(), [call](const auto& model) { call->Finish(model); });
      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::UnloadModel(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return HandleUnary<v1::UnloadModelRequest>(
      *context, *request, response, pool_,
      [this](const v1::UnloadModelRequest& parsed, const std::shared_ptr<UnaryCall>& call) {
        models_.Unload(parsed.name(), [call](const auto& model) { call->Finish(model); });
      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetRunningBatch(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* response) {
  return RunUnary<v1::GetRunningBatchRequest>(
      *context, *request, response, batch_pool_,
      [this](const v1::GetRunningBatchRequest& parsed, const UnaryCall& call) {
        return DescribeRunningBatch(parsed, models_, call.deadline());
      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return RunUnary<v1::GetServerInfoRequest>(
      *context, *request, response, pool_,
      [this](const v1::GetServerInfoRequest&, const UnaryCall&) {
        return absl::StatusOr<v1::ServerInfo>(info_);
      });
}

v1::ServerInfo DescribeServer(const Device& device, const GenerationEngine::Limits& limits,
                              int threads, int max_message_bytes) {
  v1::ServerInfo info;
  info.set_version(Version());
  info.set_device(device.name());
  info.set_simd_target(cpu::ActiveTarget());
  info.set_threads(threads);
  info.set_max_running_requests(limits.max_running);
  info.set_max_waiting_requests(limits.max_waiting);
  info.set_kv_cache_tokens(limits.kv_tokens != 0 ? limits.kv_tokens
                                                 : limits.max_running * kDefaultKvTokensEach);
  info.set_max_message_bytes(max_message_bytes);
  for (const CodecInfo& codec : RegisteredCodecs()) {
    v1::Codec& message = *info.add_codecs();
    message.set_name(codec.name);
    message.set_summary(codec.summary);
    for (const auto& [key, description] : codec.options) {
      v1::CodecOption& option = *message.add_options();
      option.set_key(key);
      option.set_description(description);
    }
  }
  *info.mutable_start_time() = ToProto(absl::Now());
  return info;
}

}  // namespace quantloom
