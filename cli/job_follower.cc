#include "cli/job_follower.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace quantloom::cli {

using ::quantloom::v1::Job;
using ::quantloom::v1::QuantizeEvent;
using ::quantloom::v1::QuantizeRequest;
using ::quantloom::v1::WatchJobRequest;

namespace {

constexpr absl::Duration kGiveUpAfter = absl::Minutes(10);

// CANCELLED, not by this client, is a server that ends its streams as it stops.
bool IsLostConnection(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsCancelled(status);
}

}  // namespace

bool HasEnded(const Job& job) {
  return job.state() == quantloom::v1::JOB_STATE_SUCCEEDED ||
         job.state() == quantloom::v1::JOB_STATE_FAILED ||
         job.state() == quantloom::v1::JOB_STATE_CANCELLED;
}

JobFollower::JobFollower(Connection& connection, Hooks hooks)
    : connection_(connection),
      hooks_(std::move(hooks)),
      deadline_(connection.Deadline(absl::InfiniteDuration())) {}

absl::StatusOr<Job> JobFollower::Quantize(const QuantizeRequest& request) {
  return Follow([&](grpc::ClientContext* context) {
    return connection_.quantization().Quantize(context, request);
  });
}

absl::StatusOr<Job> JobFollower::Watch(const std::string& job, uint64_t from_sequence) {
  last_sequence_ = from_sequence == 0 ? 0 : from_sequence - 1;
  job_.set_name(job);
  return Follow([&](grpc::ClientContext* context) {
    WatchJobRequest request;
    request.set_name(job);
    request.set_from_sequence(from_sequence);
    return connection_.quantization().WatchJob(context, request);
  });
}

absl::Status JobFollower::ReadStream(const Open& open) {
  grpc::ClientContext context;
  SetDeadline(context, deadline_);
  const Cancellation::Call scope(connection_.cancellation(), context);
  const std::unique_ptr<Reader> reader = open(&context);
  QuantizeEvent event;
  while (!stopped_ && reader->Read(&event)) {
    any_event_ = true;
    if (event.sequence() <= last_sequence_) continue;
    last_sequence_ = event.sequence();
    job_ = event.job();
    stopped_ = !hooks_.on_event(event) || HasEnded(job_);
  }
  if (stopped_) context.TryCancel();  // nothing that the server still has to say matters
  const grpc::Status status = reader->Finish();
  if (stopped_) return absl::OkStatus();
  if (status.ok()) return absl::UnavailableError("the stream ended before the job");
  return FromGrpc(status);
}

absl::StatusOr<Job> JobFollower::Follow(const Open& open) {
  absl::Status last;
  const absl::Status refused = connection_.Retry(Service::kQuantizer, [&] {
    last = ReadStream(open);
    // A stream that delivered is not repeated: what follows takes it up after its last event.
    return any_event_ ? absl::OkStatus() : last;
  });
  if (connection_.cancellation().cancelled()) return job_;
  if (!refused.ok()) return refused;

  const Open watch = [this](grpc::ClientContext* context) {
    WatchJobRequest request;
    request.set_name(job_.name());
    request.set_from_sequence(last_sequence_ + 1);
    return connection_.quantization().WatchJob(context, request);
  };
  absl::Time lost_since = absl::Now();
  for (int failures = 0; !stopped_ && !connection_.cancellation().cancelled(); ++failures) {
    if (!IsLostConnection(last)) return last;
    if (absl::Now() - lost_since > kGiveUpAfter) return last;
    const absl::Duration pause = Backoff(failures);
    hooks_.on_lost(last, pause);
    if (!connection_.cancellation().SleepFor(pause)) break;
    const uint64_t sequence_before = last_sequence_;
    last = ReadStream(watch);
    if (last_sequence_ != sequence_before) {
      failures = 0;
      lost_since = absl::Now();
    }
  }
  return job_;
}

}  // namespace quantloom::cli
