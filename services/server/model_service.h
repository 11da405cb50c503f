// ModelService of proto/quantloom/v1/model.proto.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "quantloom/v1/model.grpc.pb.h"
#include "services/common/worker_pool.h"
#include "services/server/model_registry.h"

namespace quantloom {

// All methods take bytes (services/common/message_bytes.h says why).
using RawModelService = v1::ModelService::WithRawCallbackMethod_ListModels<
    v1::ModelService::WithRawCallbackMethod_GetModel<
        v1::ModelService::WithRawCallbackMethod_LoadModel<
            v1::ModelService::WithRawCallbackMethod_UnloadModel<
                v1::ModelService::WithRawCallbackMethod_GetRunningBatch<
                    v1::ModelService::WithRawCallbackMethod_GetServerInfo<
                        v1::ModelService::Service>>>>>>;

// `models` must outlive it. Destroy it after the server that it is registered with.
class ModelServiceImpl final : public RawModelService {
 public:
  // `info` is what GetServerInfo answers.
  ModelServiceImpl(ModelRegistry& models, v1::ServerInfo info);

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetRunningBatch(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;

 private:
  ModelRegistry& models_;
  const v1::ServerInfo info_;
  WorkerPool pool_;        // reads directories
  WorkerPool batch_pool_;  // waits for engines
};

// What does not change while a server runs: version, device, limits, codecs, start time (now).
v1::ServerInfo DescribeServer(const Device& device, const GenerationEngine::Limits& limits,
                              int threads, int max_message_bytes);

}  // namespace quantloom
