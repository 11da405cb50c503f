// GenerationService of proto/quantloom/v1/generation.proto.
//
// gRPC's threads only parse and check; tokenization, scoring and the engine run on others.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "quantloom/v1/generation.grpc.pb.h"
#include "services/common/worker_pool.h"
#include "services/server/generate_call.h"
#include "services/server/model_registry.h"
#include "services/server/request_conversion.h"
#include "services/server/serving_metrics.h"

namespace quantloom {

// All methods take bytes (services/common/message_bytes.h says why).
using RawGenerationService = v1::GenerationService::WithRawCallbackMethod_Generate<
    v1::GenerationService::WithRawCallbackMethod_Score<
        v1::GenerationService::WithRawCallbackMethod_Tokenize<
            v1::GenerationService::WithRawCallbackMethod_Detokenize<
                v1::GenerationService::Service>>>>;

// `models` and `metrics` must outlive it. Destroy it after the server that it is registered with.
class GenerationServiceImpl final : public RawGenerationService {
 public:
  GenerationServiceImpl(ModelRegistry& models, ServingMetrics& metrics, const InputLimits& limits);

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  ModelRegistry& models_;
  const InputLimits limits_;
  WorkerPool text_pool_;   // tokenization and templates
  WorkerPool score_pool_;  // its threads wait for the engine
  GenerateEnvironment generate_;
};

}  // namespace quantloom
