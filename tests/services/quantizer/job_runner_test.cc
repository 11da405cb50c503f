#include "services/quantizer/job_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <atomic>
#include <fstream>
#include <new>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "services/quantizer/sqlite_job_store.h"
#include "tests/services/quantizer/scripted_work.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A runner with its store. StartProcess begins another life of the service on the same files.
class JobRunnerTest : public ::testing::Test {
 protected:
  JobRunnerTest() {
    fs::create_directories(directory_.path() / "sources");
    fs::create_directories(directory_.path() / "models");
    std::ofstream(directory_.path() / "sources/model.gguf") << "model";
    StartStore();
  }

  void StartStore() {
    runner_.reset();
    store_.reset();
    auto store = SqliteJobStore::Open(directory_.path() / "jobs.db");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  void StartRunner(int max_running = 1) {
    runner_ = std::make_unique<JobRunner>(
        JobRunner::Options{
            .max_running = max_running, .threads = 1, .progress_interval = absl::ZeroDuration()},
        *ConfinedRoot::Open(directory_.path() / "sources"), publisher_, work_.function(), *store_,
        metrics_);
    runner_->SetDeviceFailureListener([this] { ++device_failures_; });
    runner_->Start();
  }

  void StartProcess() {
    StartStore();
    StartRunner();
  }

  std::string Queue(const std::string& output) {
    NewJob job;
    job.name = "job-" + output;
    job.request.set_request_id("request-" + output);
    job.request.set_source("model.gguf");
    job.request.set_output(output);
    job.request.set_recipe("icquant:bits=2");
    job.fingerprint = RequestFingerprint(job.request);
    EXPECT_TRUE(store_->Create(job, 100).ok());
    if (runner_ != nullptr) runner_->Wake();
    return job.name;
  }

  v1::Job WaitForEnd(const std::string& name) {
    while (true) {
      const auto job = store_->Get(name);
      EXPECT_TRUE(job.ok()) << job.status();
      if (!job.ok() || IsFinal(job->state())) return job.value_or(v1::Job());
      absl::SleepFor(absl::Milliseconds(2));
    }
  }

  std::vector<v1::QuantizeEvent> Events(const std::string& name) {
    auto read = store_->ReadEvents(name, 1, 1000);
    EXPECT_TRUE(read.ok()) << read.status();
    return read.ok() ? read->events : std::vector<v1::QuantizeEvent>();
  }

  int EndingEvents(const std::string& name) {
    int endings = 0;
    for (const auto& event : Events(name)) endings += IsFinal(event.job().state());
    return endings;
  }

  std::string MetricsText() { return prometheus::TextSerializer().Serialize(registry_.Collect()); }

  testing::TemporaryDirectory directory_;
  Publisher publisher_{directory_.path() / "models"};
  prometheus::Registry registry_;
  QuantizerMetrics metrics_{registry_};
  ScriptedWork work_;
  std::atomic<int> device_failures_{0};
  std::unique_ptr<SqliteJobStore> store_;
  std::unique_ptr<JobRunner> runner_;
};

TEST_F(JobRunnerTest, Job_IsWorkedOnPublishedAndDescribed) {
  StartRunner();
  const std::string name = Queue("model");
  work_.AllowAll();
  const v1::Job job = WaitForEnd(name);
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.result().path(), (directory_.path() / "models/model").string());
  EXPECT_EQ(job.result().linear_bits_per_weight(), 2.25);
  EXPECT_EQ(job.result().bits_per_weight(), 3.5);
  EXPECT_EQ(job.result().packed_bytes(), 12345u);
  EXPECT_EQ(job.result().elapsed().seconds(), 1);
  EXPECT_FALSE(job.has_error());
  EXPECT_TRUE(publisher_.OutputExists("model"));
  EXPECT_TRUE(publisher_.StagedJobs().empty());
}

TEST_F(JobRunnerTest, Progress_IsCommittedAsEvents) {
  StartRunner();
  const std::string name = Queue("model");
  work_.AllowAll();
  WaitForEnd(name);
  std::vector<uint32_t> tensors;
  v1::JobProgress last;
  for (const auto& event : Events(name)) {
    last = event.job().progress();
    if (last.phase() == v1::JOB_PHASE_ENCODING) tensors.push_back(last.tensors_done());
  }
  EXPECT_THAT(tensors, ::testing::ElementsAre(1, 2, 3, 4, 4));  // and with the job's end
  EXPECT_EQ(last.tensor(), "tensor-3");
  EXPECT_EQ(last.device(), "cuda:1");
  EXPECT_EQ(last.weights_done(), 400u);
  EXPECT_EQ(last.phase_fraction(), 1.0);
  EXPECT_EQ(last.relative_error(), 0.01);
  EXPECT_TRUE(last.has_eta());
}

TEST_F(JobRunnerTest, Failure_KeepsCodeAndMessageAndRemovesStaging) {
  work_.FailWith(absl::ResourceExhaustedError("tensor 'x': no space left on device"));
  work_.AllowAll();
  StartRunner();
  const v1::Job job = WaitForEnd(Queue("model"));
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().code(), 8);
  EXPECT_EQ(job.error().message(), "tensor 'x': no space left on device");
  EXPECT_FALSE(job.has_result());
  EXPECT_TRUE(fs::is_empty(directory_.path() / "models"));
}

TEST_F(JobRunnerTest, Failure_OfAnAllocationFailsTheJobAlone) {
  ScriptedWork& work = work_;
  work.AllowAll();
  int calls = 0;
  runner_ = std::make_unique<JobRunner>(
      JobRunner::Options{.max_running = 1, .threads = 1},
      *ConfinedRoot::Open(directory_.path() / "sources"), publisher_,
      [&](const QuantizeOptions& options, const fs::path& staging, ThreadTeam& team,
          const std::function<void(const QuantizeProgress&)>& progress,
          const std::function<bool()>& cancelled) {
        if (++calls == 1) throw std::bad_alloc();
        return work.function()(options, staging, team, progress, cancelled);
      },
      *store_, metrics_);
  runner_->Start();
  const std::string first = Queue("first");
  const std::string second = Queue("second");
  EXPECT_EQ(WaitForEnd(first).error().code(), 8);
  EXPECT_EQ(WaitForEnd(second).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobRunnerTest, Failure_WhenTheSourceIsGoneNamesTheField) {
  const std::string name = Queue("model");
  fs::remove(directory_.path() / "sources/model.gguf");
  StartRunner();
  const v1::Job job = WaitForEnd(name);
  EXPECT_EQ(job.error().code(), 5);
  EXPECT_THAT(job.error().message(), HasSubstr("source: "));
}

TEST_F(JobRunnerTest, Output_CreatedByOthersMeanwhileIsUntouched) {
  StartRunner();
  const std::string name = Queue("model");
  work_.Allow(1);
  work_.WaitForEncoded(1);
  fs::create_directories(directory_.path() / "models/model");
  work_.AllowAll();
  const v1::Job job = WaitForEnd(name);
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().code(), 6);
  EXPECT_TRUE(fs::is_empty(directory_.path() / "models/model"));
  EXPECT_TRUE(publisher_.StagedJobs().empty());
}

TEST_F(JobRunnerTest, Cancel_EndsARunningJobAndRemovesStaging) {
  StartRunner();
  const std::string name = Queue("model");
  work_.Allow(2);
  work_.WaitForEncoded(2);
  ASSERT_TRUE(store_->RequestCancel(name).ok());
  runner_->Cancel(name);
  EXPECT_EQ(WaitForEnd(name).state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(fs::is_empty(directory_.path() / "models"));
  EXPECT_EQ(work_.encoded(), 2);
}

TEST_F(JobRunnerTest, Cancel_WantedBeforeARestartIsNotForgotten) {
  const std::string name = Queue("model");
  StartRunner();
  work_.Allow(1);
  work_.WaitForEncoded(1);
  runner_->Stop();
  ASSERT_TRUE(store_->RequestCancel(name).ok());
  StartProcess();
  EXPECT_EQ(WaitForEnd(name).state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(fs::is_empty(directory_.path() / "models"));
  EXPECT_EQ(work_.runs(), 1);
}

TEST_F(JobRunnerTest, Stop_DoesNotCountAsACrash) {
  const std::string name = Queue("model");
  for (int stop = 0; stop < 5; ++stop) {
    StartProcess();
    while (work_.runs() <= stop) absl::SleepFor(absl::Milliseconds(1));
    runner_->Stop();
  }
  StartProcess();
  work_.AllowAll();
  EXPECT_EQ(WaitForEnd(name).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobRunnerTest, DeviceFailure_FailsTheJobAndLeavesTheQueueToTheNextProcess) {
  work_.FailWith(absl::UnavailableError("device cuda:0 failed: an illegal memory access"));
  work_.AllowAll();
  const std::string first = Queue("first");
  const std::string second = Queue("second");
  StartRunner(/*max_running=*/1);
  const v1::Job failed = WaitForEnd(first);
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().code(), static_cast<int>(absl::StatusCode::kUnavailable));
  EXPECT_THAT(failed.error().message(), HasSubstr("device cuda:0 failed"));
  EXPECT_EQ(device_failures_, 1);
  runner_->Wake();
  runner_->Stop();
  EXPECT_EQ(store_->Get(second)->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(work_.runs(), 1);

  work_.FailWith(absl::OkStatus());
  StartProcess();
  EXPECT_EQ(WaitForEnd(second).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(device_failures_, 1);
}

TEST_F(JobRunnerTest, Stop_LeavesTheJobToBeResumedFromItsLastTensor) {
  StartRunner();
  const std::string name = Queue("model");
  work_.Allow(2);
  work_.WaitForEncoded(2);
  runner_->Stop();
  EXPECT_EQ(store_->Get(name)->state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(publisher_.StagedJobs().size(), 1u);

  StartProcess();
  work_.AllowAll();
  const v1::Job job = WaitForEnd(name);
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.resumes(), 1u);
  EXPECT_EQ(work_.runs(), 2);
  EXPECT_EQ(work_.encoded(), ScriptedWork::kTensors) << "finished tensors are not encoded again";
  EXPECT_EQ(EndingEvents(name), 1);
  EXPECT_THAT(MetricsText(), HasSubstr("quantloom_job_resumes_total 1"));
}

// A process that stopped at any point of publication: the next one ends the job once, with the
// result that was decided on, without working again.
class StoppedPublicationTest : public JobRunnerTest {
 protected:
  // Leaves what a process leaves that stopped just before the rename.
  std::string DecideOnPublication() {
    const std::string name = Queue("model");
    EXPECT_TRUE(store_->Claim().ok());
    fs::create_directories(publisher_.StagingDirectory(name));
    std::ofstream(publisher_.StagingDirectory(name) / "quantloom.json") << "manifest";
    Publication publication;
    publication.manifest_sha256 = *publisher_.ManifestDigest(publisher_.StagingDirectory(name));
    publication.result.set_packed_bytes(777);
    EXPECT_TRUE(store_->RecordPublication(name, publication).ok());
    return name;
  }

  void ExpectSucceededOnce(const std::string& name) {
    const v1::Job job = WaitForEnd(name);
    EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.DebugString();
    EXPECT_EQ(job.result().packed_bytes(), 777u);
    EXPECT_EQ(EndingEvents(name), 1);
    EXPECT_EQ(work_.runs(), 0);
    EXPECT_EQ(*ReadFile(directory_.path() / "models/model/quantloom.json"), "manifest");
    EXPECT_TRUE(publisher_.StagedJobs().empty());
  }
};

TEST_F(StoppedPublicationTest, BeforeTheRename_IsPublished) {
  const std::string name = DecideOnPublication();
  StartProcess();
  ExpectSucceededOnce(name);
}

TEST_F(StoppedPublicationTest, AfterTheRename_HasSucceeded) {
  const std::string name = DecideOnPublication();
  ASSERT_TRUE(publisher_.Publish(name, "model").ok());
  StartProcess();
  ExpectSucceededOnce(name);
}

TEST_F(StoppedPublicationTest, AfterTheRename_HasSucceededEvenIfCancellationWasWanted) {
  const std::string name = DecideOnPublication();
  ASSERT_TRUE(publisher_.Publish(name, "model").ok());
  ASSERT_TRUE(store_->RequestCancel(name).ok());
  StartProcess();
  ExpectSucceededOnce(name);
}

TEST_F(StoppedPublicationTest, WithEverythingGone_IsWorkedOnAgain) {
  const std::string name = DecideOnPublication();
  fs::remove_all(publisher_.StagingDirectory(name));
  work_.AllowAll();
  StartProcess();
  EXPECT_EQ(WaitForEnd(name).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(work_.runs(), 1);
}

TEST_F(StoppedPublicationTest, WithAnotherModelAtTheOutput_Fails) {
  const std::string name = DecideOnPublication();
  fs::create_directories(directory_.path() / "models/model");
  std::ofstream(directory_.path() / "models/model/quantloom.json") << "another";
  StartProcess();
  EXPECT_EQ(WaitForEnd(name).error().code(), 6);
  EXPECT_EQ(*ReadFile(directory_.path() / "models/model/quantloom.json"), "another");
}

TEST_F(JobRunnerTest, Start_RemovesStagingOfEndedJobsAlone) {
  const std::string ended = Queue("ended");
  ASSERT_TRUE(store_->RequestCancel(ended).ok());
  const std::string interrupted = Queue("interrupted");
  ASSERT_TRUE(store_->Claim().ok());
  for (const std::string& name : {ended, interrupted, std::string("job-of-another-service")}) {
    fs::create_directories(publisher_.StagingDirectory(name));
  }
  StartProcess();
  EXPECT_FALSE(fs::exists(publisher_.StagingDirectory(ended)));
  EXPECT_TRUE(fs::exists(publisher_.StagingDirectory(interrupted)));
  EXPECT_TRUE(fs::exists(publisher_.StagingDirectory("job-of-another-service")));
}

TEST_F(JobRunnerTest, Jobs_RunOneAfterAnotherInOrder) {
  StartRunner();
  const std::string first = Queue("first");
  const std::string second = Queue("second");
  work_.Allow(1);
  work_.WaitForEncoded(1);
  EXPECT_EQ(store_->Get(first)->state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(store_->Get(second)->state(), v1::JOB_STATE_QUEUED);
  work_.AllowAll();
  EXPECT_EQ(WaitForEnd(second).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(store_->Get(first)->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobRunnerTest, Jobs_RunSideBySideUpToTheLimit) {
  StartRunner(/*max_running=*/2);
  const std::string names[] = {Queue("a"), Queue("b"), Queue("c")};
  while (work_.runs() < 2) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(store_->GetStatistics()->jobs[v1::JOB_STATE_RUNNING], 2);
  EXPECT_EQ(store_->GetStatistics()->jobs[v1::JOB_STATE_QUEUED], 1);
  work_.AllowAll();
  for (const std::string& name : names) {
    EXPECT_EQ(WaitForEnd(name).state(), v1::JOB_STATE_SUCCEEDED);
  }
}

TEST_F(JobRunnerTest, Metrics_CountTensorsAndJobs) {
  StartRunner();
  work_.AllowAll();
  WaitForEnd(Queue("a"));
  work_.FailWith(absl::InternalError("broken"));
  WaitForEnd(Queue("b"));
  runner_->Stop();
  const std::string text = MetricsText();
  EXPECT_THAT(text, HasSubstr("quantloom_weights_quantized_total{codec=\"icquant\"} 800"));
  EXPECT_THAT(text, HasSubstr("quantloom_tensor_quantize_seconds_count{codec=\"icquant\"} 8"));
  EXPECT_THAT(text, HasSubstr("quantloom_tensor_quantize_seconds_sum{codec=\"icquant\"} 2"));
  EXPECT_THAT(text, HasSubstr("quantloom_tensor_relative_error_count{codec=\"icquant\"} 8"));
  EXPECT_THAT(text, HasSubstr("quantloom_job_duration_seconds_count{state=\"succeeded\"} 1"));
  EXPECT_THAT(text, HasSubstr("quantloom_job_duration_seconds_count{state=\"failed\"} 1"));
}

TEST_F(JobRunnerTest, Gauges_TellStatesAndTheQueuesAge) {
  Queue("a");
  absl::SleepFor(absl::Milliseconds(5));
  const auto families = JobGauges(*store_).Collect();
  const std::string text = prometheus::TextSerializer().Serialize(families);
  EXPECT_THAT(text, HasSubstr("quantloom_jobs{state=\"queued\"} 1"));
  EXPECT_THAT(text, HasSubstr("quantloom_jobs{state=\"running\"} 0"));
  EXPECT_GE(families[1].metric[0].gauge.value, 0.005);
}

TEST_F(JobRunnerTest, Texts_AreReadFromTheSourceRoot) {
  std::ofstream(directory_.path() / "sources/text.txt") << "some text";
  NewJob job;
  job.name = "job-texts";
  job.request.set_request_id("texts");
  job.request.set_source("model.gguf");
  job.request.set_output("texts");
  job.request.set_recipe("icquant:bits=2");
  job.request.mutable_calibration()->set_inline_text("inline");
  job.request.mutable_calibration()->set_tokens(7);
  job.request.mutable_calibration()->set_activations(v1::Calibration::ACTIVATIONS_SOURCE);
  job.request.mutable_evaluation()->set_path("text.txt");
  job.request.set_seed(5);
  ASSERT_TRUE(store_->Create(job, 100).ok());
  work_.AllowAll();
  StartRunner();
  const v1::Job ended = WaitForEnd(job.name);
  EXPECT_EQ(ended.result().quality().text_name(), "text.txt");
  const QuantizeOptions options = work_.options().front();
  EXPECT_EQ(options.calibration_text, "inline");
  EXPECT_EQ(options.calibration_tokens, 7u);
  EXPECT_TRUE(options.calibrate_on_source);
  EXPECT_EQ(options.evaluation_text, "some text");
  EXPECT_EQ(options.seed, 5u);
  EXPECT_EQ(options.source, fs::canonical(directory_.path()) / "sources/model.gguf");
}

}  // namespace
}  // namespace quantloom
