#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/common/rpc_status.h"
#include "services/quantizer/sqlite_job_store.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kRoom = 1000;

// A store in a file of its own, which Reopen opens again as the next process would.
class JobStoreTest : public ::testing::Test {
 protected:
  JobStoreTest() { Reopen(); }

  void Reopen() {
    store_.reset();
    auto store = SqliteJobStore::Open(path());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  std::filesystem::path path() const { return directory_.path() / "jobs.db"; }

  static NewJob MakeJob(const std::string& id) {
    NewJob job;
    job.name = "job-" + id;
    job.request.set_request_id("request-" + id);
    job.request.set_source("model.gguf");
    job.request.set_output("output-" + id);
    job.request.set_recipe("icquant:bits=2");
    job.fingerprint = RequestFingerprint(job.request);
    return job;
  }

  v1::Job Create(const std::string& id) {
    absl::StatusOr<v1::Job> job = store_->Create(MakeJob(id), kRoom);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.value_or(v1::Job());
  }

  v1::Job Get(const std::string& id) { return store_->Get("job-" + id).value_or(v1::Job()); }

  ClaimedJob Claim() {
    auto claimed = store_->Claim();
    EXPECT_TRUE(claimed.ok()) << claimed.status();
    EXPECT_TRUE(claimed->has_value());
    return **std::move(claimed);
  }

  std::vector<v1::QuantizeEvent> Events(const std::string& id, uint64_t from = 1) {
    auto events = store_->ReadEvents("job-" + id, from, 10'000);
    EXPECT_TRUE(events.ok()) << events.status();
    return events->events;
  }

  testing::TemporaryDirectory directory_;
  std::unique_ptr<SqliteJobStore> store_;
};

TEST_F(JobStoreTest, Create_QueuesTheJobWithItsFirstEvent) {
  const v1::Job job = Create("a");
  EXPECT_EQ(job.name(), "job-a");
  EXPECT_EQ(job.request_id(), "request-a");
  EXPECT_EQ(job.state(), v1::JOB_STATE_QUEUED);
  EXPECT_TRUE(job.has_create_time());
  EXPECT_FALSE(job.has_start_time());
  EXPECT_EQ(job.last_sequence(), 1u);
  const auto events = Events("a");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].sequence(), 1u);
  EXPECT_EQ(events[0].job().DebugString(), job.DebugString());
}

TEST_F(JobStoreTest, Jobs_SurviveTheProcess) {
  const v1::Job job = Create("a");
  Reopen();
  EXPECT_EQ(Get("a").DebugString(), job.DebugString());
  EXPECT_EQ(Events("a").size(), 1u);
}

TEST_F(JobStoreTest, Texts_AreKeptForWorkAndLeftOutOfTheJob) {
  NewJob job = MakeJob("a");
  job.request.mutable_calibration()->set_inline_text("calibration");
  job.request.mutable_evaluation()->set_inline_text("evaluation");
  job.request.mutable_evaluation()->set_windows(3);
  ASSERT_TRUE(store_->Create(job, kRoom).ok());
  Reopen();
  EXPECT_TRUE(Get("a").request().calibration().has_inline_text());
  EXPECT_EQ(Get("a").request().calibration().inline_text(), "");
  EXPECT_EQ(Get("a").request().evaluation().inline_text(), "");
  EXPECT_EQ(Get("a").request().evaluation().windows(), 3u);
  const ClaimedJob claimed = Claim();
  EXPECT_EQ(claimed.request.calibration().inline_text(), "calibration");
  EXPECT_EQ(claimed.request.evaluation().inline_text(), "evaluation");
}

TEST_F(JobStoreTest, Create_WithAKnownRequestIdGivesTheSameJob) {
  Create("a");
  NewJob again = MakeJob("a");
  again.name = "job-other";
  const auto job = store_->Create(again, kRoom);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->name(), "job-a");
  EXPECT_EQ(store_->Get("job-other").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(JobStoreTest, FindRequest_ComparesTheFingerprint) {
  const NewJob job = MakeJob("a");
  EXPECT_EQ(*store_->FindRequest("request-a", job.fingerprint), std::nullopt);
  Create("a");
  EXPECT_EQ((**store_->FindRequest("request-a", job.fingerprint)).name(), "job-a");
  const absl::Status other = store_->FindRequest("request-a", "other").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ViolatedField(other), "request_id");
}

TEST_F(JobStoreTest, Fingerprint_IsOfEverythingButTheId) {
  v1::QuantizeRequest request = MakeJob("a").request;
  const std::string fingerprint = RequestFingerprint(request);
  request.set_request_id("another");
  EXPECT_EQ(RequestFingerprint(request), fingerprint);
  request.mutable_calibration()->set_tokens(0);
  EXPECT_NE(RequestFingerprint(request), fingerprint);
}

TEST_F(JobStoreTest, Create_RefusesAnOutputThatAnUnfinishedJobWrites) {
  Create("a");
  NewJob same = MakeJob("b");
  same.request.set_output("output-a");
  const absl::Status refused = store_->Create(same, kRoom).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ViolatedField(refused), "output");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("job-a"));

  ASSERT_TRUE(store_->RequestCancel("job-a").ok());
  EXPECT_TRUE(store_->Create(same, kRoom).ok()) << "an ended job no longer holds its output";
}

TEST_F(JobStoreTest, Create_RefusesWhatTheQueueHasNoRoomFor) {
  ASSERT_TRUE(store_->Create(MakeJob("a"), 2).ok());
  ASSERT_TRUE(store_->Create(MakeJob("b"), 2).ok());
  EXPECT_EQ(store_->Create(MakeJob("c"), 2).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(store_->Create(MakeJob("a"), 2).ok()) << "a known id attaches to a full queue";
  Claim();
  EXPECT_TRUE(store_->Create(MakeJob("c"), 2).ok());
}

TEST_F(JobStoreTest, Claim_TakesTheOldestQueuedJobOnce) {
  Create("a");
  Create("b");
  EXPECT_EQ(Claim().job.name(), "job-a");
  EXPECT_EQ(Claim().job.name(), "job-b");
  EXPECT_EQ(*store_->Claim(), std::nullopt);
  EXPECT_EQ(Get("a").state(), v1::JOB_STATE_RUNNING);
  EXPECT_TRUE(Get("a").has_start_time());
  EXPECT_EQ(Get("a").resumes(), 0u);
}

TEST_F(JobStoreTest, Claim_TakesInterruptedJobsFirstAndCountsTheResume) {
  Create("a");
  Create("b");
  const v1::Job first = Claim().job;
  Reopen();
  const ClaimedJob resumed = Claim();
  EXPECT_EQ(resumed.job.name(), "job-a");
  EXPECT_EQ(resumed.job.resumes(), 1u);
  EXPECT_EQ(resumed.job.start_time().DebugString(), first.start_time().DebugString());
  EXPECT_EQ(Claim().job.name(), "job-b");
  EXPECT_EQ(*store_->Claim(), std::nullopt);
}

TEST_F(JobStoreTest, Claim_CountsProcessesThatEndedWithoutReleasingTheJob) {
  Create("1");
  EXPECT_EQ(Claim().crashes, 0);
  Reopen();
  EXPECT_EQ(Claim().crashes, 1);
  ASSERT_TRUE(store_->Release("job-1").ok());
  Reopen();
  EXPECT_EQ(Claim().crashes, 1) << "it had been released";
  Reopen();
  EXPECT_EQ(Claim().crashes, 2);
  ASSERT_TRUE(store_->Release("job-1").ok());
  EXPECT_EQ(Claim().job.name(), "job-1") << "released jobs can be claimed again";
  ASSERT_TRUE(store_->MarkCancelled("job-1").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Release("job-1")));
}

TEST_F(JobStoreTest, Publication_IsThereForTheNextProcess) {
  Create("a");
  EXPECT_FALSE(Claim().publication.has_value());
  Publication publication{"digest", {}};
  publication.result.set_packed_bytes(42);
  ASSERT_TRUE(store_->RecordPublication("job-a", publication).ok());
  Reopen();
  const ClaimedJob claimed = Claim();
  ASSERT_TRUE(claimed.publication.has_value());
  EXPECT_EQ(claimed.publication->manifest_sha256, "digest");
  EXPECT_EQ(claimed.publication->result.packed_bytes(), 42u);
}

TEST_F(JobStoreTest, Job_EndsOnceWithItsResult) {
  Create("a");
  Claim();
  v1::QuantizeResult result;
  result.set_packed_bytes(42);
  ASSERT_TRUE(store_->Succeed("job-a", result).ok());
  const v1::Job job = Get("a");
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.result().packed_bytes(), 42u);
  EXPECT_TRUE(job.has_end_time());

  EXPECT_EQ(store_->Succeed("job-a", result).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->Fail("job-a", {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->MarkCancelled("job-a").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->AppendProgress("job-a", {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->RecordPublication("job-a", {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Get("a").DebugString(), job.DebugString());
}

TEST_F(JobStoreTest, Job_ThatIsQueuedCannotEndAsIfItHadRun) {
  Create("a");
  EXPECT_EQ(store_->Succeed("job-a", {}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Get("a").state(), v1::JOB_STATE_QUEUED);
}

TEST_F(JobStoreTest, RequestCancel_EndsAQueuedJobAndMarksARunningOne) {
  Create("a");
  Create("b");
  Claim();
  EXPECT_EQ(store_->RequestCancel("job-b")->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(store_->RequestCancel("job-a")->state(), v1::JOB_STATE_RUNNING);
  Reopen();
  EXPECT_TRUE(Claim().cancel_requested);
  EXPECT_EQ(*store_->Claim(), std::nullopt);
  ASSERT_TRUE(store_->MarkCancelled("job-a").ok());
  EXPECT_EQ(store_->RequestCancel("job-a")->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(store_->RequestCancel("job-x").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(JobStoreTest, Events_HoldTheJobAsItWas) {
  Create("a");
  Claim();
  v1::JobProgress progress;
  progress.set_tensors_done(3);
  ASSERT_TRUE(store_->AppendProgress("job-a", progress).ok());
  ASSERT_TRUE(store_->Fail("job-a", {}).ok());
  const auto events = Events("a");
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].job().state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(events[1].job().state(), v1::JOB_STATE_RUNNING);
  EXPECT_FALSE(events[1].job().has_progress());
  EXPECT_EQ(events[2].job().progress().tensors_done(), 3u);
  EXPECT_EQ(events[3].job().state(), v1::JOB_STATE_FAILED);
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].sequence(), i + 1);
    EXPECT_EQ(events[i].job().last_sequence(), i + 1);
    EXPECT_EQ(events[i].job().request().output(), "output-a");
    EXPECT_TRUE(events[i].has_time());
  }
  EXPECT_EQ(Events("a", 3).size(), 2u);
  EXPECT_TRUE(Events("a", 5).empty());
  EXPECT_TRUE(Events("a", UINT64_MAX).empty());
}

TEST_F(JobStoreTest, ReadEvents_SaysWhenNoneWillFollow) {
  Create("a");
  Claim();
  EXPECT_FALSE(store_->ReadEvents("job-a", 1, 10)->ended);
  ASSERT_TRUE(store_->MarkCancelled("job-a").ok());
  EXPECT_FALSE(store_->ReadEvents("job-a", 1, 2)->ended);
  EXPECT_TRUE(store_->ReadEvents("job-a", 1, 3)->ended);
  EXPECT_TRUE(store_->ReadEvents("job-a", 99, 3)->ended);
  EXPECT_EQ(store_->ReadEvents("job-x", 1, 3).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(JobStoreTest, Progress_IsThinnedButStatesAndTheNewestStay) {
  Create("a");
  Claim();
  const uint64_t steps = 2 * SqliteJobStore::kMaxProgressEvents + 100;
  for (uint64_t i = 1; i <= steps; ++i) {
    v1::JobProgress progress;
    progress.set_weights_done(i);
    ASSERT_TRUE(store_->AppendProgress("job-a", progress).ok());
    if (i % 97 == 0) {
      EXPECT_EQ(Events("a").back().job().progress().weights_done(), i);
    }
  }
  ASSERT_TRUE(store_->Succeed("job-a", {}).ok());
  const auto events = Events("a");
  EXPECT_EQ(events.size(), static_cast<size_t>(SqliteJobStore::kMaxProgressEvents + 3));
  EXPECT_EQ(events[0].job().state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(events[1].job().state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(events.back().job().state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(events.back().sequence(), steps + 3);
  // What stays is spread over the whole life.
  uint64_t widest = 0;
  for (size_t i = 1; i < events.size(); ++i) {
    ASSERT_GT(events[i].sequence(), events[i - 1].sequence());
    widest = std::max(widest, events[i].sequence() - events[i - 1].sequence());
  }
  EXPECT_LE(widest, 4 * steps / SqliteJobStore::kMaxProgressEvents);
}

TEST_F(JobStoreTest, List_PagesNewestFirstWithoutGapsOrRepeats) {
  for (int i = 0; i < 7; ++i) Create(absl::StrCat(i));
  std::vector<std::string> names;
  std::string token;
  do {
    const auto page = store_->List({}, 3, token);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const v1::Job& job : page->jobs) names.push_back(job.name());
    token = page->next_token;
    if (names.size() == 3) Create("newer");  // not in the pages that follow
  } while (!token.empty());
  EXPECT_THAT(names, ElementsAre("job-6", "job-5", "job-4", "job-3", "job-2", "job-1", "job-0"));
}

TEST_F(JobStoreTest, List_OfExactlyOnePageHasNoNextToken) {
  Create("a");
  Create("b");
  EXPECT_EQ(store_->List({}, 2, "")->next_token, "");
  EXPECT_NE(store_->List({}, 1, "")->next_token, "");
}

TEST_F(JobStoreTest, List_FiltersByState) {
  Create("a");
  Create("b");
  Create("c");
  Claim();
  ASSERT_TRUE(store_->RequestCancel("job-b").ok());
  const auto page = store_->List({v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLED}, 10, "");
  ASSERT_EQ(page->jobs.size(), 2u);
  EXPECT_EQ(page->jobs[0].name(), "job-b");
  EXPECT_EQ(page->jobs[1].name(), "job-a");
  EXPECT_TRUE(store_->List({v1::JOB_STATE_FAILED}, 10, "")->jobs.empty());
}

TEST_F(JobStoreTest, List_TokensAreGoodForTheirListingAlone) {
  for (int i = 0; i < 3; ++i) Create(absl::StrCat(i));
  const std::string token = store_->List({}, 1, "")->next_token;
  Reopen();
  EXPECT_EQ(store_->List({}, 1, token)->jobs[0].name(), "job-1") << "a restart keeps tokens good";
  std::string changed = token;
  changed[15] = changed[15] == '1' ? '2' : '1';
  for (const std::string& bad : {changed, std::string("1"), token + "0", token.substr(1),
                                 std::string(48, 'f'), std::string("\xff\0x", 3)}) {
    const absl::Status status = store_->List({}, 1, bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_EQ(ViolatedField(status), "page_token");
  }
  EXPECT_EQ(store_->List({v1::JOB_STATE_QUEUED}, 1, token).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(JobStoreTest, List_EndsAPageBeforeItIsTooLargeForClients) {
  for (int i = 0; i < 10; ++i) {
    NewJob job = MakeJob(absl::StrCat(i));
    for (int j = 0; j < 256; ++j) job.request.add_overrides()->set_pattern(std::string(2000, '*'));
    ASSERT_TRUE(store_->Create(job, kRoom).ok());
  }
  size_t jobs = 0;
  std::string token;
  do {
    const auto page = store_->List({}, 1000, token);
    ASSERT_TRUE(page.ok());
    size_t bytes = 0;
    for (const v1::Job& job : page->jobs) bytes += job.ByteSizeLong();
    EXPECT_LE(bytes, SqliteJobStore::kMaxPageBytes);
    jobs += page->jobs.size();
    token = page->next_token;
  } while (!token.empty());
  EXPECT_EQ(jobs, 10u);
}

TEST_F(JobStoreTest, Statistics_CountStatesAndFindTheOldestQueued) {
  EXPECT_EQ(store_->GetStatistics()->oldest_queued, std::nullopt);
  const v1::Job oldest = Create("a");
  Create("b");
  Create("c");
  ASSERT_TRUE(store_->RequestCancel("job-c").ok());
  const auto statistics = store_->GetStatistics();
  EXPECT_EQ(statistics->jobs.at(v1::JOB_STATE_QUEUED), 2);
  EXPECT_EQ(statistics->jobs.at(v1::JOB_STATE_CANCELLED), 1);
  EXPECT_EQ(absl::ToUnixSeconds(*statistics->oldest_queued), oldest.create_time().seconds());
}

TEST_F(JobStoreTest, Listener_HearsOfEveryEventWithoutTheStoresLock) {
  std::vector<std::string> heard;
  store_->SetListener([&](const std::string& job) {
    EXPECT_TRUE(store_->Get(job).ok());  // would deadlock under the lock
    heard.push_back(job);
  });
  Create("a");
  Claim();
  ASSERT_TRUE(store_->AppendProgress("job-a", {}).ok());
  ASSERT_TRUE(store_->Succeed("job-a", {}).ok());
  Create("b");
  ASSERT_TRUE(store_->RequestCancel("job-b").ok());
  EXPECT_THAT(heard, ElementsAre("job-a", "job-a", "job-a", "job-a", "job-b", "job-b"));
}

TEST_F(JobStoreTest, Threads_CreateEachRequestOnce) {
  std::vector<std::thread> threads;
  std::vector<std::string> names(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      NewJob job = MakeJob("a");
      job.name = absl::StrCat("job-", t);
      names[t] = store_->Create(job, kRoom)->name();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), 1u);
  EXPECT_EQ(store_->List({}, 100, "")->jobs.size(), 1u);
}

TEST_F(JobStoreTest, Open_RefusesWhatIsNoDatabase) {
  store_.reset();
  std::ofstream(path(), std::ios::trunc) << std::string(8192, 'x');
  EXPECT_EQ(SqliteJobStore::Open(path()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JobStoreTest, Open_KeepsTheJobsOfAnOlderSchema) {
  Create("1");
  Create("2");
  Claim();
  store_.reset();
  {
    Database database = Database::Open(path()).value();
    ASSERT_TRUE(database
                    .Execute("ALTER TABLE jobs DROP COLUMN held;"
                             "ALTER TABLE jobs DROP COLUMN crashes; PRAGMA user_version = 1")
                    .ok());
  }
  Reopen();
  const ClaimedJob claimed = Claim();
  EXPECT_EQ(claimed.job.name(), "job-1");
  EXPECT_EQ(claimed.crashes, 0);
  EXPECT_EQ(Get("2").state(), v1::JOB_STATE_QUEUED);
}

TEST_F(JobStoreTest, Open_RefusesANewerSchema) {
  store_.reset();
  auto database = Database::Open(path());
  ASSERT_TRUE(database->Execute("PRAGMA user_version = 99").ok());
  EXPECT_EQ(SqliteJobStore::Open(path()).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(JobStoreTest, Open_RefusesAMissingDirectory) {
  EXPECT_EQ(SqliteJobStore::Open(directory_.path() / "missing/jobs.db").status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(JobStoreTest, AFullStoreChangesNothingAndGoesOnWhenThereIsRoom) {
  Create("a");
  const v1::Job claimed = Claim().job;
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{256 << 10, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  v1::JobError error;
  error.set_message(std::string(1 << 20, 'x'));
  const absl::Status full = store_->Fail("job-a", error);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_EQ(Get("a").DebugString(), claimed.DebugString());
  EXPECT_TRUE(store_->Fail("job-a", error).ok());
  Reopen();
  EXPECT_EQ(Get("a").state(), v1::JOB_STATE_FAILED);
}

}  // namespace
}  // namespace quantloom
