// An evaluation's results as a response stream.
//
// Results wait here until the client reads them: few bytes a window, so that a slow client delays
// nobody; one that does not read at all is ended at kMaxWaitingBytes.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "quantloom/v1/quantization.pb.h"

namespace quantloom {

// Thread-safe.
class EvaluationCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  static constexpr size_t kMaxWaitingBytes = size_t{16} << 20;

  // A stream that says nothing until Send or End. gRPC owns a share of it until it is done.
  static std::shared_ptr<EvaluationCall> Start(const grpc::CallbackServerContext& context);

  // Sends a result after those before it. Does nothing once the call has ended.
  void Send(const v1::EvaluateResponse& response);

  // Ends the call with this status once everything has been sent; the first call counts.
  void End(const absl::Status& status);

  // OK while results are wanted; else how the call ends, by End, by the caller who gave up, or by
  // its deadline.
  absl::Status Wanted();

 private:
  explicit EvaluationCall(absl::Time deadline) : deadline_(deadline) {}

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // With the lock, which it releases: ends the call with this status, unless it has ended, without
  // what waits.
  void Abandon(std::unique_lock<std::mutex> lock, const absl::Status& status);
  // With the lock, which it releases: sends the next result, or the final status, unless gRPC is
  // busy with one.
  void Advance(std::unique_lock<std::mutex> lock);

  const absl::Time deadline_;

  std::mutex mutex_;
  std::deque<grpc::ByteBuffer> waiting_;
  size_t waiting_bytes_ = 0;
  std::optional<absl::Status> end_;
  bool busy_ = false;                     // a write or the final status is with gRPC
  grpc::ByteBuffer message_;              // the one being written
  std::shared_ptr<EvaluationCall> self_;  // gRPC's share
};

}  // namespace quantloom
