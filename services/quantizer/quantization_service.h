// quantloom.v1.QuantizationService over a job store and a runner.
//
// Requests come as bytes (services/common/message_bytes.h says why) and are answered on a pool of
// the service's own threads: admission reads files, and a commit waits for the disk.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/quantize/quantize_model.h"
#include "quantloom/v1/quantization.grpc.pb.h"
#include "services/common/call_record.h"
#include "services/common/confined_root.h"
#include "services/common/unary_call.h"
#include "services/common/worker_pool.h"
#include "services/quantizer/evaluator.h"
#include "services/quantizer/event_signal.h"
#include "services/quantizer/event_stream.h"
#include "services/quantizer/job_runner.h"
#include "services/quantizer/job_store.h"
#include "services/quantizer/publication.h"

namespace quantloom {

// Thread-safe.
class QuantizationServiceImpl final
    : public v1::QuantizationService::WithRawCallbackMethod_Quantize<
          v1::QuantizationService::WithRawCallbackMethod_GetJob<
              v1::QuantizationService::WithRawCallbackMethod_ListJobs<
                  v1::QuantizationService::WithRawCallbackMethod_WatchJob<
                      v1::QuantizationService::WithRawCallbackMethod_CancelJob<
                          v1::QuantizationService::WithRawCallbackMethod_Evaluate<
                              v1::QuantizationService::Service>>>>>> {
 public:
  // ResolveQuantizeOptions's signature and contract.
  using ResolveFunction = std::function<absl::Status(QuantizeOptions&)>;

  // `signal` is told of the store's events. The references must outlive this object and its server.
  QuantizationServiceImpl(int64_t max_queued_jobs, ConfinedRoot source_root, Publisher publisher,
                          ResolveFunction resolve, JobStore& store, EventSignal& signal,
                          JobRunner& runner, Evaluator& evaluator);

  // From now on calls are answered with UNAVAILABLE, and streams end with it: the jobs that they
  // follow go on when the service is back.
  void StopAdmitting();

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Quantize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchJob(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Evaluate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;

 private:
  // The job of a Quantize request: the known one of its id, or a new one.
  absl::StatusOr<v1::Job> Admit(const v1::QuantizeRequest& request, const CallRecord& record);
  absl::StatusOr<v1::ListJobsResponse> List(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> Cancel(const v1::CancelJobRequest& request);
  absl::Status CheckAdmitting() const;

  // A stream whose `begin` runs on the pool with the parsed request and calls Follow or End.
  template <typename Request, typename Begin>
  grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStream(
      const grpc::CallbackServerContext& context, const grpc::ByteBuffer& bytes, Begin begin);
  void Remember(const std::shared_ptr<EventStream>& stream);

  const int64_t max_queued_jobs_;
  const ConfinedRoot source_root_;
  const Publisher publisher_;
  const ResolveFunction resolve_;
  JobStore& store_;
  EventSignal& signal_;
  JobRunner& runner_;
  Evaluator& evaluator_;

  std::atomic<bool> admitting_{true};
  std::mutex streams_mutex_;
  std::vector<std::weak_ptr<EventStream>> streams_;
  WorkerPool pool_;  // last: its threads use all of the above
};

}  // namespace quantloom
