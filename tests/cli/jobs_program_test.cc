// jobs, cancel
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nlohmann/json.hpp"
#include "tests/cli/job_events.h"
#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(JobsProgramTest, Jobs_AreATable) {
  const ScriptedServer server({.list_jobs = [](auto&, const auto&, v1::ListJobsResponse* response) {
    *response->add_jobs() = EncodingEvent(42).job();
    *response->add_jobs() = EventIn(v1::JOB_STATE_SUCCEEDED, 9).job();
    response->mutable_jobs(1)->mutable_start_time()->set_seconds(1'700'000'000);
    response->mutable_jobs(1)->mutable_end_time()->set_seconds(1'700'000'134);
    response->set_next_page_token("next");
    return grpc::Status::OK;
  }});
  const Outcome outcome = RunProgram({"jobs", "--quantizer", server.address()});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output,
            "JOB               STATE         SOURCE  OUTPUT      B/W  CREATED                TIME  "
            "RECIPE\n"
            "job-7f3a09c2d41b  encoding 42%  tiny    tiny-2bit  2.34  2023-11-14 22:13:20          "
            "icquant:bits=2\n"
            "job-7f3a09c2d41b  succeeded     tiny    tiny-2bit  2.34  2023-11-14 22:13:20  2m 14s  "
            "icquant:bits=2\n");
  EXPECT_THAT(outcome.error, HasSubstr("--page-token next"));
}

TEST(JobsProgramTest, NoJobs_AreARemarkAndNoTable) {
  const ScriptedServer server(
      {.list_jobs = [](auto&, const auto&, auto*) { return grpc::Status::OK; }});
  const Outcome outcome = RunProgram({"jobs", "--quantizer", server.address()});
  EXPECT_EQ(outcome.output, "");
  EXPECT_EQ(outcome.error, "No jobs.\n");
}

TEST(JobsProgramTest, Filters_BecomeTheRequest) {
  v1::ListJobsRequest request;
  const ScriptedServer server({.list_jobs = [&](auto&, const auto& received, auto*) {
    request = received;
    return grpc::Status::OK;
  }});
  EXPECT_EQ(RunProgram({"jobs", "--state", "queued", "--state", "Failed", "--page-size", "7",
                        "--page-token", "t", "--quantizer", server.address()})
                .status,
            0);
  EXPECT_THAT(request.states(), ElementsAre(v1::JOB_STATE_QUEUED, v1::JOB_STATE_FAILED));
  EXPECT_EQ(request.page_size(), 7);
  EXPECT_EQ(request.page_token(), "t");
}

TEST(JobsProgramTest, All_ReadsEveryPage) {
  const ScriptedServer server(
      {.list_jobs = [](auto&, const auto& request, v1::ListJobsResponse* response) {
        const int page = request.page_token().empty() ? 0 : std::stoi(request.page_token());
        response->add_jobs()->set_name("job-" + std::to_string(page));
        if (page < 2) response->set_next_page_token(std::to_string(page + 1));
        return grpc::Status::OK;
      }});
  const Outcome outcome = RunProgram({"jobs", "--all", "--json", "--quantizer", server.address()});
  const auto json = nlohmann::json::parse(outcome.output);
  ASSERT_EQ(json["jobs"].size(), 3u);
  EXPECT_EQ(json["jobs"][2]["name"], "job-2");
  EXPECT_EQ(json["next_page_token"], "");
}

TEST(JobsProgramTest, Cancel_TellsTheJobsState) {
  v1::JobState state = v1::JOB_STATE_RUNNING;
  const ScriptedServer server({.cancel_job = [&](auto&, const auto& request, v1::Job* job) {
    job->set_name(request.name());
    job->set_state(state);
    return grpc::Status::OK;
  }});
  const std::vector<std::string> arguments = {"cancel", "job-1", "--quantizer", server.address()};
  EXPECT_EQ(RunProgram(arguments).output, "job-1: cancelling\n");
  state = v1::JOB_STATE_SUCCEEDED;
  EXPECT_EQ(RunProgram(arguments).output, "job-1: succeeded\n");
}

}  // namespace
}  // namespace quantloom::cli
