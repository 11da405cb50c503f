#include "cli/job_view.h"

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "cli/progress.h"
#include "cli/quality.h"
#include "cli/table.h"
#include "cli/units.h"

namespace quantloom::cli {

using ::quantloom::v1::Job;
using ::quantloom::v1::QuantizeEvent;
using ::quantloom::v1::QuantizeRequest;
using ::quantloom::v1::QuantizeResult;

namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

void AddResult(const QuantizeResult& result, Pairs& pairs) {
  pairs.emplace_back("bits/weight", FormatBitsPerWeight(result.linear_bits_per_weight(),
                                                        result.bits_per_weight()));
  pairs.emplace_back("size", FormatBytes(result.packed_bytes()));
  if (result.has_quality()) AddQuality(result.quality(), pairs);
  pairs.emplace_back("time", FormatElapsed(ToDuration(result.elapsed())));
  pairs.emplace_back("path", result.path());
}

}  // namespace

std::vector<std::pair<std::string, std::string>> SummarizeJob(const Job& job) {
  Pairs pairs = {{"job", job.name()},
                 {"state", StateName(job.state())},
                 {"source", job.request().source()},
                 {"output", job.request().output()},
                 {"recipe", job.request().recipe()}};
  if (!job.progress().device().empty()) pairs.emplace_back("device", job.progress().device());
  if (job.has_result()) {
    AddResult(job.result(), pairs);
  } else if (job.has_progress()) {
    pairs.emplace_back("progress", RenderProgressPlain(job));
  }
  if (job.has_error()) {
    const auto code = static_cast<absl::StatusCode>(job.error().code());
    pairs.emplace_back("error",
                       absl::StrCat(absl::StatusCodeToString(code), ": ", job.error().message()));
  }
  return pairs;
}

JobView::JobView(Session& session) : session_(session) {}

CommandResult JobView::Quantize(const QuantizeRequest& request) {
  return Follow([&](JobFollower& follower) { return follower.Quantize(request); }, false);
}

CommandResult JobView::Start(const QuantizeRequest& request) {
  return Follow([&](JobFollower& follower) { return follower.Quantize(request); }, true);
}

CommandResult JobView::Watch(const std::string& job, uint64_t from_sequence) {
  return Follow([&](JobFollower& follower) { return follower.Watch(job, from_sequence); }, false);
}

CommandResult JobView::Follow(const std::function<absl::StatusOr<Job>(JobFollower&)>& follow,
                              bool first_event_only) {
  Console& console = session_.console();
  ProgressDisplay progress(console);
  bool announced = false;
  JobFollower follower(
      session_.connection(),
      {.on_event =
           [&](const QuantizeEvent& event) {
             if (session_.json()) {
               session_.OutJson(event);
             } else if (!first_event_only) {
               if (!announced) {
                 console.Err(absl::StrCat(event.job().name(), ": ", event.job().request().source(),
                                          " -> ", event.job().request().output(), "\n"));
               }
               progress.Show(event);
             }
             announced = true;
             return !first_event_only;
           },
       .on_lost =
           [&](const absl::Status& status, absl::Duration pause) {
             session_.Note(absl::StrCat("connection lost (", status.message(),
                                        "); trying again in ", FormatElapsed(pause)));
           }});
  CatchInterrupts();
  const InterruptScope interrupts([&] { session_.connection().cancellation().Cancel(); });
  const absl::StatusOr<Job> job = follow(follower);
  progress.End();
  if (!job.ok()) return job.status();
  if (HasEnded(*job) && !first_event_only) return ShowEnd(*job);
  if (first_event_only && announced) {
    if (!session_.json()) console.Out(absl::StrCat(job->name(), "\n"));
  }
  const std::string name = job->name().empty() ? "" : job->name();
  if (!name.empty()) {
    session_.Note(absl::StrCat("The job goes on. See it: quantloom watch ", name,
                               "   End it: quantloom cancel ", name));
  }
  return first_event_only && announced ? ExitCode::kOk : ExitCode::kInterrupted;
}

CommandResult JobView::ShowEnd(const Job& job) {
  Console& console = session_.console();
  const bool succeeded = job.state() == quantloom::v1::JOB_STATE_SUCCEEDED;
  if (!session_.json()) {
    if (succeeded) {
      console.Out(RenderPairs(SummarizeJob(job)));
    } else if (job.has_error()) {
      const auto code = static_cast<absl::StatusCode>(job.error().code());
      console.Err(absl::StrCat(Styled(console.err_color(), "1;31", "error:"), " ", job.name(),
                               " failed: ", absl::StatusCodeToString(code), ": ",
                               job.error().message(), "\n"));
    } else {
      console.Err(absl::StrCat(job.name(), " was cancelled\n"));
    }
  }
  return succeeded ? ExitCode::kOk : ExitCode::kJobFailed;
}

}  // namespace quantloom::cli
