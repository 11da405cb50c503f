// One Generate stream: a request on its way from gRPC through tokenization and the engine, and its
// events on their way back.
//
// Whatever the client does, little is kept for it: while one response is being written, further
// events gather in one other, and when that holds kMaxGatheredTokens tokens the request is paused
// until the client has read. The call ends once: after the engine's last event, or before the
// engine has seen it.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/generation.h"
#include "quantloom/v1/generation.pb.h"
#include "services/common/access_control.h"
#include "services/common/call_record.h"
#include "services/common/worker_pool.h"
#include "services/server/model_registry.h"
#include "services/server/request_conversion.h"
#include "services/server/serving_metrics.h"

namespace quantloom {

// What calls share.
struct GenerateEnvironment {
  ModelRegistry& models;
  ServingMetrics& metrics;
  WorkerPool& pool;  // tokenization and templates
  InputLimits limits;
};

// Thread-safe: gRPC's threads, the pool's and the engine's meet here.
class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  static constexpr int kMaxGatheredTokens = 64;

  // Checks the request and schedules the rest. The result is gRPC's until its OnDone.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(
      const grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
      GenerateEnvironment& environment);

 private:
  GenerateCall(const grpc::CallbackServerContext& context, GenerateEnvironment& environment);

  absl::Status Admit(const grpc::ByteBuffer& request);
  void Submit();
  void OnEvent(const GenerationEvent& event);
  void Observe(const GenerationEvent& event);
  void Gather(const GenerationEvent& event);
  void End(const absl::Status& status);
  void Advance(std::unique_lock<std::mutex> lock);
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  GenerateEnvironment& environment_;
  const absl::Time arrival_;
  const absl::Time deadline_;
  const absl::StatusOr<Caller> caller_;
  const std::shared_ptr<CallRecord> record_;
  v1::GenerateRequest request_;
  uint64_t seed_ = 0;                   // the one used
  std::shared_ptr<GenerateCall> self_;  // gRPC's share

  // Touched only by the engine's thread after Submit.
  std::optional<StreamMetrics> metrics_;
  absl::Time last_token_ = absl::InfinitePast();

  std::mutex mutex_;
  ModelRegistry::Lease model_;                // until the last event
  std::shared_ptr<GenerationStream> stream_;  // from Submit's return until the last event
  bool given_up_ = false;                     // nobody reads any more
  bool paused_ = false;
  bool writing_ = false;
  bool finished_ = false;
  std::optional<v1::PromptEcho> echo_;  // until the first event
  v1::GenerateResponse gathered_;
  bool has_gathered_ = false;
  grpc::ByteBuffer written_;            // what the write in flight reads
  std::optional<absl::Status> ending_;  // set by the last event
};

}  // namespace quantloom
