#include "services/quantizer/event_stream.h"

#include <algorithm>
#include <utility>

#include "services/common/call_deadline.h"
#include "services/common/message_bytes.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

constexpr int kReadAhead = 8;

}  // namespace

std::shared_ptr<EventStream> EventStream::Start(const grpc::CallbackServerContext& context,
                                                JobStore& store, EventSignal& signal) {
  std::shared_ptr<EventStream> stream(new EventStream(context, store, signal));
  stream->self_ = stream;
  return stream;
}

EventStream::EventStream(const grpc::CallbackServerContext& context, JobStore& store,
                         EventSignal& signal)
    : deadline_(CallDeadline(context)),
      record_(CallRecord::Of(context)),
      store_(store),
      signal_(signal) {}

void EventStream::Follow(const std::string& job, uint64_t from_sequence) {
  std::shared_ptr<EventStream> self;
  {
    const std::lock_guard lock(mutex_);
    job_ = job;
    next_sequence_ = std::max<uint64_t>(from_sequence, 1);
    self = self_;
  }
  if (self == nullptr) return;  // the caller is gone
  // Before the first read: an event committed in between is then seen twice at most, not missed.
  signal_.Watch(job, self);
  Advance();
}

void EventStream::End(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (end_) return;
    end_ = status;
  }
  Advance();
}

void EventStream::OnEvent() { Advance(); }

void EventStream::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    busy_ = false;
    if (!ok && !end_) end_ = GivenUpStatus(deadline_);
  }
  Advance();
}

void EventStream::OnCancel() { End(GivenUpStatus(deadline_)); }

void EventStream::OnDone() {
  std::shared_ptr<EventStream> self;  // released last, outside the lock
  const std::lock_guard lock(mutex_);
  self = std::move(self_);
}

void EventStream::ReadAhead() {
  absl::StatusOr<JobStore::Events> read = store_.ReadEvents(job_, next_sequence_, kReadAhead);
  if (!read.ok()) {
    end_ = read.status();
    return;
  }
  for (v1::QuantizeEvent& event : read->events) ahead_.push_back(std::move(event));
  if (!ahead_.empty()) next_sequence_ = ahead_.back().sequence() + 1;
  all_read_ = read->ended;
}

void EventStream::Advance() {
  std::optional<absl::Status> end;
  {
    const std::lock_guard lock(mutex_);
    if (busy_) return;
    if (!end_ && ahead_.empty() && !job_.empty()) {
      if (!all_read_) ReadAhead();
      if (!end_ && ahead_.empty() && all_read_) end_ = absl::OkStatus();
    }
    if (end_) {
      end = end_;
    } else if (!ahead_.empty()) {
      message_ = EncodeMessage(ahead_.front());
      ahead_.pop_front();
    } else {
      return;  // until OnEvent
    }
    busy_ = true;
  }
  // Nothing of this object is touched after these: they may end the call.
  if (end) return Finish(ToGrpcStatus(*end));
  StartWrite(&message_);
}

}  // namespace quantloom
