// A job's events as a response stream: past ones first, then new ones as they are committed.
//
// The stream reads ahead a few events from the store and has one message with gRPC at a time, so a
// client that does not read costs a fixed amount of memory however long the job runs; events that
// were thinned out meanwhile are skipped.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/common/call_record.h"
#include "services/quantizer/event_signal.h"
#include "services/quantizer/job_store.h"

namespace quantloom {

// Thread-safe.
class EventStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                          public EventSignal::Watcher {
 public:
  // A stream that says nothing until Follow or End. gRPC owns a share of it until it is done.
  static std::shared_ptr<EventStream> Start(const grpc::CallbackServerContext& context,
                                            JobStore& store, EventSignal& signal);

  // Sends the job's events from `from_sequence` on, and ends OK after the last one. Call once.
  void Follow(const std::string& job, uint64_t from_sequence);

  CallRecord& record() const { return *record_; }

  // Ends the stream with this status once the event being sent is out; the first call counts.
  void End(const absl::Status& status);

 private:
  EventStream(const grpc::CallbackServerContext& context, JobStore& store, EventSignal& signal);

  void OnEvent() override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // Sends the next event, or the final status, unless gRPC is busy with one.
  void Advance();
  // With mutex_ held: fills ahead_, or decides on the end.
  void ReadAhead();

  const absl::Time deadline_;
  const std::shared_ptr<CallRecord> record_;
  JobStore& store_;
  EventSignal& signal_;

  std::mutex mutex_;
  std::string job_;             // empty before Follow
  uint64_t next_sequence_ = 0;  // the first one not read yet
  std::deque<v1::QuantizeEvent> ahead_;
  bool all_read_ = false;  // no event will follow those in ahead_
  std::optional<absl::Status> end_;
  bool busy_ = false;                  // a write or the final status is with gRPC
  grpc::ByteBuffer message_;           // the one being written
  std::shared_ptr<EventStream> self_;  // gRPC's share
};

}  // namespace quantloom
