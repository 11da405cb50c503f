// A job on the screen: followed to its end, as a summary, as a row.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cli/job_follower.h"
#include "cli/session.h"
#include "quantloom/v1/quantization.pb.h"

namespace quantloom::cli {

// What is worth knowing of a job, as (name, value) pairs: for SUCCEEDED its result and quality,
// else how far it came.
std::vector<std::pair<std::string, std::string>> SummarizeJob(const quantloom::v1::Job& job);

// Follows a job on the screen: progress on standard error, the summary on standard output; with
// --json instead every event as a line on standard output. The first Ctrl-C detaches (the job goes
// on, and how to find it again is told) and the command ends with kInterrupted.
class JobView {
 public:
  explicit JobView(Session& session);

  // Starts the job, or attaches to it, and follows it. Its exit code is kOk for SUCCEEDED,
  // kJobFailed for FAILED and CANCELLED.
  CommandResult Quantize(const quantloom::v1::QuantizeRequest& request);
  CommandResult Watch(const std::string& job, uint64_t from_sequence);

  // Starts the job, or attaches to it, and shows its first event only.
  CommandResult Start(const quantloom::v1::QuantizeRequest& request);

 private:
  CommandResult Follow(
      const std::function<absl::StatusOr<quantloom::v1::Job>(JobFollower&)>& follow,
      bool first_event_only);
  CommandResult ShowEnd(const quantloom::v1::Job& job);

  Session& session_;
};

}  // namespace quantloom::cli
