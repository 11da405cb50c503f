// A job's events from first to last, whatever happens to the connection.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/connection.h"
#include "quantloom/v1/quantization.pb.h"

namespace quantloom::cli {

// SUCCEEDED, FAILED or CANCELLED.
bool HasEnded(const quantloom::v1::Job& job);

// Follows one job. Once an event has arrived, a lost connection (UNAVAILABLE, CANCELLED by the
// server, or a stream that ends before the job does) is taken up again with WatchJob after the last
// sequence number seen, after growing pauses, for ten minutes; every event is delivered once and in
// order. Before the first event an error is final, but for the retries of ConnectionOptions.
class JobFollower {
 public:
  struct Hooks {
    // Returns false to stop following; the job goes on.
    std::function<bool(const quantloom::v1::QuantizeEvent&)> on_event;
    // The connection was lost; the next try follows after the pause.
    std::function<void(const absl::Status&, absl::Duration)> on_lost;
  };

  JobFollower(Connection& connection, Hooks hooks);

  // Starts a job, or attaches to the one with the request's id, and follows it to its end. Returns
  // the job as of the last event: HasEnded() unless a hook or the connection's Cancellation stopped
  // it before. `request.request_id` must be set: it is what makes a repeated request safe.
  absl::StatusOr<quantloom::v1::Job> Quantize(const quantloom::v1::QuantizeRequest& request);

  // The same for a known job, from an event on.
  absl::StatusOr<quantloom::v1::Job> Watch(const std::string& job, uint64_t from_sequence);

 private:
  using Reader = grpc::ClientReader<quantloom::v1::QuantizeEvent>;
  using Open = std::function<std::unique_ptr<Reader>(grpc::ClientContext*)>;

  absl::StatusOr<quantloom::v1::Job> Follow(const Open& open);
  // One stream, to its end. OK when following is over.
  absl::Status ReadStream(const Open& open);

  Connection& connection_;
  Hooks hooks_;
  absl::Time deadline_;  // of all streams together
  uint64_t last_sequence_ = 0;
  quantloom::v1::Job job_;
  bool any_event_ = false;  // of this connection or one before
  bool stopped_ = false;
};

}  // namespace quantloom::cli
