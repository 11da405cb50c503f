#include "services/quantizer/evaluation_call.h"

#include <utility>

#include "absl/time/clock.h"
#include "services/common/call_deadline.h"
#include "services/common/message_bytes.h"
#include "services/common/rpc_status.h"

namespace quantloom {

std::shared_ptr<EvaluationCall> EvaluationCall::Start(const grpc::CallbackServerContext& context) {
  std::shared_ptr<EvaluationCall> call(new EvaluationCall(CallDeadline(context)));
  call->self_ = call;
  return call;
}

void EvaluationCall::Send(const v1::EvaluateResponse& response) {
  std::unique_lock lock(mutex_);
  if (end_) return;
  waiting_.push_back(EncodeMessage(response));
  waiting_bytes_ += waiting_.back().Length();
  if (waiting_bytes_ <= kMaxWaitingBytes) return Advance(std::move(lock));
  Abandon(std::move(lock),
          absl::ResourceExhaustedError("the caller does not read what is sent to it"));
}

void EvaluationCall::End(const absl::Status& status) {
  std::unique_lock lock(mutex_);
  if (end_) return;
  end_ = status;
  Advance(std::move(lock));
}

absl::Status EvaluationCall::Wanted() {
  const std::lock_guard lock(mutex_);
  if (end_) return *end_;
  return absl::Now() < deadline_ ? absl::OkStatus() : GivenUpStatus(deadline_);
}

void EvaluationCall::OnWriteDone(bool ok) {
  std::unique_lock lock(mutex_);
  busy_ = false;
  ok ? Advance(std::move(lock)) : Abandon(std::move(lock), GivenUpStatus(deadline_));
}

void EvaluationCall::OnCancel() { Abandon(std::unique_lock(mutex_), GivenUpStatus(deadline_)); }

void EvaluationCall::OnDone() {
  std::shared_ptr<EvaluationCall> self;  // released last, outside the lock
  const std::lock_guard lock(mutex_);
  self = std::move(self_);
}

void EvaluationCall::Abandon(std::unique_lock<std::mutex> lock, const absl::Status& status) {
  waiting_.clear();
  waiting_bytes_ = 0;
  if (!end_) end_ = status;
  Advance(std::move(lock));
}

void EvaluationCall::Advance(std::unique_lock<std::mutex> lock) {
  if (busy_ || (waiting_.empty() && !end_)) return;
  busy_ = true;
  // Nothing of this object is touched after the lock is released: what starts then may end the
  // call.
  if (waiting_.empty()) {
    const grpc::Status status = ToGrpcStatus(*end_);
    lock.unlock();
    return Finish(status);
  }
  message_.Swap(&waiting_.front());
  waiting_.pop_front();
  waiting_bytes_ -= message_.Length();
  lock.unlock();
  StartWrite(&message_);
}

}  // namespace quantloom
