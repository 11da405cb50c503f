#include "services/common/unary_call.h"

#include <utility>

#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(1);

}  // namespace

absl::Status QueueFullStatus() {
  return WithRetryDelay(absl::ResourceExhaustedError("too many requests are waiting"), kRetryDelay);
}

std::shared_ptr<UnaryCall> UnaryCall::Start(const grpc::CallbackServerContext& context,
                                            Caller caller, grpc::ByteBuffer* response) {
  std::shared_ptr<UnaryCall> call(new UnaryCall(context, std::move(caller), response));
  call->self_ = call;
  return call;
}

void UnaryCall::Answer(const google::protobuf::Message* response, const absl::Status& status) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (answered_) return;
    answered_ = true;
    if (response != nullptr) *response_ = EncodeMessage(*response);
  }
  ServerUnaryReactor::Finish(ToGrpcStatus(status));
}

void UnaryCall::OnCancel() {
  given_up_ = true;
  Finish(GivenUpStatus(deadline_));
}

void UnaryCall::OnDone() {
  // Released at the end of this function, when it may be the last share.
  const std::shared_ptr<UnaryCall> self = std::move(self_);
}

}  // namespace quantloom
