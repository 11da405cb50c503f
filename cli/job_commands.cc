// quantloom jobs, watch, cancel
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/job_view.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/units.h"

namespace quantloom::cli {

using ::quantloom::v1::CancelJobRequest;
using ::quantloom::v1::Job;
using ::quantloom::v1::JobState;
using ::quantloom::v1::ListJobsRequest;
using ::quantloom::v1::ListJobsResponse;
using ::quantloom::v1::QuantizationService;

namespace {

struct JobsArguments {
  std::vector<std::string> states;
  int page_size = 50;
  std::string page_token;
  bool all = false;
};

std::string StateColumn(const Job& job) {
  const std::string phase = PhaseName(job);
  if (job.state() != quantloom::v1::JOB_STATE_RUNNING) return phase;
  return absl::StrFormat("%s %.0f%%", phase, 100 * job.progress().phase_fraction());
}

// From the beginning of work to its end, or to now.
std::string TimeColumn(const Job& job) {
  if (!job.has_start_time()) return "";
  const absl::Time end = job.has_end_time() ? ToTime(job.end_time()) : absl::Now();
  return FormatElapsed(end - ToTime(job.start_time()));
}

void AddJob(const Job& job, Table& table) {
  const double bits =
      job.has_result() ? job.result().linear_bits_per_weight() : job.progress().bits_per_weight();
  table.Add({job.name(), StateColumn(job), job.request().source(), job.request().output(),
             bits > 0 ? absl::StrFormat("%.2f", bits) : "", FormatTime(job.create_time()),
             TimeColumn(job), job.request().recipe()});
}

absl::StatusOr<ListJobsRequest> MakeListRequest(const JobsArguments& arguments) {
  ListJobsRequest request;
  request.set_page_size(arguments.page_size);
  request.set_page_token(arguments.page_token);
  for (const std::string& name : arguments.states) {
    JobState state = quantloom::v1::JOB_STATE_UNSPECIFIED;
    quantloom::v1::JobState_Parse("JOB_STATE_" + absl::AsciiStrToUpper(name), &state);
    request.add_states(state);
  }
  return request;
}

CommandResult RunJobs(Session& session, const JobsArguments& arguments) {
  absl::StatusOr<ListJobsRequest> request = MakeListRequest(arguments);
  ListJobsResponse all;
  do {
    absl::StatusOr<ListJobsResponse> page = session.connection().Call(
        session.connection().quantization(), &QuantizationService::Stub::ListJobs, *request);
    if (!page.ok()) return page.status();
    all.mutable_jobs()->MergeFrom(page->jobs());
    all.set_next_page_token(page->next_page_token());
    request->set_page_token(page->next_page_token());
  } while (arguments.all && !all.next_page_token().empty());
  if (session.json()) {
    session.OutJson(all);
    return ExitCode::kOk;
  }
  if (all.jobs().empty()) {
    session.Note("No jobs.");
    return ExitCode::kOk;
  }
  Table table({{"JOB"},
               {"STATE"},
               {"SOURCE"},
               {"OUTPUT"},
               {"B/W", Table::Align::kRight},
               {"CREATED"},
               {"TIME", Table::Align::kRight},
               {"RECIPE"}});
  for (const Job& job : all.jobs()) AddJob(job, table);
  session.console().Out(table.Render(session.console().out_color()));
  if (!all.next_page_token().empty()) {
    session.Note(absl::StrCat("More: --page-token ", all.next_page_token(), " or --all"));
  }
  return ExitCode::kOk;
}

CommandResult RunCancel(Session& session, const std::string& name) {
  CancelJobRequest request;
  request.set_name(name);
  const absl::StatusOr<Job> job = session.connection().Call(
      session.connection().quantization(), &QuantizationService::Stub::CancelJob, request);
  if (!job.ok()) return job.status();
  if (session.json()) {
    session.OutJson(*job);
  } else if (HasEnded(*job)) {
    session.console().Out(absl::StrCat(job->name(), ": ", StateName(job->state()), "\n"));
  } else {
    session.console().Out(absl::StrCat(job->name(), ": cancelling\n"));
  }
  return ExitCode::kOk;
}

void AddJobs(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<JobsArguments>();
  CLI::App* command = app.add_subcommand("jobs", "List quantization jobs, newest first");
  command->footer(
      "Examples:\n"
      "  quantloom jobs --state queued --state running\n"
      "  quantloom jobs --all --json | jq -r '.jobs[] | [.name, .state] | @tsv'\n");
  command
      ->add_option(
          "--state", arguments->states,
          "Only jobs in this state: queued, running, succeeded, failed, cancelled; may be repeated")
      ->option_text("STATE")
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"queued", "running", "succeeded", "failed", "cancelled"},
                            CLI::ignore_case));
  command->add_option("--page-size", arguments->page_size, "Jobs in a page [50]")
      ->check(CLI::Range(1, 1000))
      ->option_text("N");
  command->add_option("--page-token", arguments->page_token, "Page to show, from the page before")
      ->type_name("TOKEN");
  command->add_flag("--all", arguments->all, "All pages");
  command->callback([&session, arguments] {
    session.command = [&session, arguments] { return RunJobs(session, *arguments); };
  });
}

void AddWatch(CLI::App& app, Session& session) {
  struct WatchArguments {
    std::string job;
    uint64_t from = 0;
  };
  auto arguments = std::make_shared<WatchArguments>();
  CLI::App* command = app.add_subcommand("watch", "Follow a job until it ends");
  command->footer(
      "Ctrl-C detaches; the job goes on.\n\nExamples:\n"
      "  quantloom watch job-7f3a09c2d41b\n"
      "  quantloom watch job-7f3a09c2d41b --json --from 120\n");
  command->add_option("JOB", arguments->job, "Name of the job")->required()->option_text(" ");
  command->add_option("--from", arguments->from, "Sequence number of the first event to show [1]")
      ->type_name("N");
  command->callback([&session, arguments] {
    session.command = [&session, arguments] {
      return JobView(session).Watch(arguments->job, arguments->from);
    };
  });
}

void AddCancel(CLI::App& app, Session& session) {
  auto job = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("cancel", "End a job");
  command->footer("Example:\n  quantloom cancel job-7f3a09c2d41b\n");
  command->add_option("JOB", *job, "Name of the job")->required()->option_text(" ");
  command->callback(
      [&session, job] { session.command = [&session, job] { return RunCancel(session, *job); }; });
}

}  // namespace

void AddJobCommands(CLI::App& app, Session& session) {
  AddJobs(app, session);
  AddWatch(app, session);
  AddCancel(app, session);
}

}  // namespace quantloom::cli
