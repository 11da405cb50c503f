// A unary RPC that is answered from another thread than gRPC's, at most once, whoever comes first:
// the work, or its caller's cancellation or deadline.
//
//   auto call = UnaryCall::Start(context, caller, response_bytes);
//   pool.TryRun([call] { call->Finish(Work()); });
//   return call->reactor();
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/common/access_control.h"
#include "services/common/access_interceptor.h"
#include "services/common/call_deadline.h"
#include "services/common/call_record.h"
#include "services/common/message_bytes.h"
#include "services/common/worker_pool.h"

namespace quantloom {

// RESOURCE_EXHAUSTED with a retry delay.
absl::Status QueueFullStatus();

// Thread-safe.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<UnaryCall> Start(const grpc::CallbackServerContext& context, Caller caller,
                                          grpc::ByteBuffer* response);

  // What the service method returns. gRPC owns a share of the call until it is done.
  grpc::ServerUnaryReactor* reactor() { return this; }
  absl::Time deadline() const { return deadline_; }
  const Caller& caller() const { return caller_; }
  CallRecord& record() const { return *record_; }
  // Whether an answer would reach nobody.
  bool given_up() const { return given_up_ || absl::Now() >= deadline_; }

  // Answers, unless the call has been answered.
  void Finish(const absl::Status& status) { Answer(nullptr, status); }
  template <typename Response>
  void Finish(const absl::StatusOr<Response>& response) {
    Answer(response.ok() ? &*response : nullptr, response.status());
  }

 private:
  UnaryCall(const grpc::CallbackServerContext& context, Caller caller, grpc::ByteBuffer* response)
      : deadline_(CallDeadline(context)),
        caller_(std::move(caller)),
        record_(CallRecord::Of(context)),
        response_(response) {}
  void Answer(const google::protobuf::Message* response, const absl::Status& status);
  void OnCancel() override;
  void OnDone() override;

  const absl::Time deadline_;
  const Caller caller_;
  const std::shared_ptr<CallRecord> record_;
  grpc::ByteBuffer* const response_;
  std::atomic<bool> given_up_{false};
  std::mutex mutex_;
  bool answered_ = false;
  std::shared_ptr<UnaryCall> self_;  // gRPC's share
};

// Parses the request and runs `handler(request, call)`, which sees to it that the call is finished,
// on `pool`, unless the caller may not make the call or has given up by then.
template <typename Request, typename Handler>
grpc::ServerUnaryReactor* HandleUnary(const grpc::CallbackServerContext& context,
                                      const grpc::ByteBuffer& request_bytes,
                                      grpc::ByteBuffer* response, WorkerPool& pool,
                                      Handler handler) {
  const absl::StatusOr<Caller> caller = CallerOf(context);
  const std::shared_ptr<UnaryCall> call =
      UnaryCall::Start(context, caller.value_or(Caller()), response);
  const auto request = std::make_shared<Request>();
  if (!caller.ok()) {
    call->Finish(caller.status());
  } else if (const absl::Status status = DecodeMessage(request_bytes, *request); !status.ok()) {
    call->Finish(status);
  } else if (!pool.TryRun([call, request, handler = std::move(handler)] {
               if (call->given_up()) return call->Finish(GivenUpStatus(call->deadline()));
               handler(*request, call);
             })) {
    call->Finish(QueueFullStatus());
  }
  return call->reactor();
}

// As HandleUnary, answering with what `work(request, call)` returns: an absl::StatusOr of the
// response.
template <typename Request, typename Work>
grpc::ServerUnaryReactor* RunUnary(const grpc::CallbackServerContext& context,
                                   const grpc::ByteBuffer& request_bytes,
                                   grpc::ByteBuffer* response, WorkerPool& pool, Work work) {
  return HandleUnary<Request>(
      context, request_bytes, response, pool,
      [work = std::move(work)](const Request& request, const std::shared_ptr<UnaryCall>& call) {
        call->Finish(work(request, *call));
      });
}

}  // namespace quantloom
