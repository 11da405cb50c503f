// The executable itself, with the real engine on a tiny model: it is killed and stopped in the
// middle of jobs, and what it publishes is compared with what an undisturbed one does.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <map>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "quantloom/v1/quantization.grpc.pb.h"
#include "services/common/rpc_status.h"
#include "services/quantizer/job_store.h"
#include "tests/services/common/http_get.h"
#include "tests/services/common/service_process.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ServiceProcess;

// Enough tensors, and enough work in each, to be interrupted among them.
ModelConfig Config() {
  ModelConfig config = testing::TinyConfig();
  config.num_layers = 10;
  config.intermediate_size = 512;
  return config;
}

// File name -> contents.
std::map<std::string, std::string> ReadDirectory(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    files[fs::relative(entry.path(), directory).string()] = ReadFile(entry.path()).value_or("");
  }
  return files;
}

class QuantizerProcessTest : public ::testing::Test {
 protected:
  QuantizerProcessTest() {
    testing::WriteTinyModel(directory_.path() / "sources/tiny", /*seed=*/1, Config());
    fs::create_directories(models());
  }

  fs::path models() const { return directory_.path() / "models"; }

  void Start(uint64_t max_file_bytes = 0, int max_job_crashes = 0) {
    process_.reset();
    const std::vector<std::string> arguments = {
        absl::StrCat("--max-job-crashes=", max_job_crashes),
        absl::StrCat("--source-root=", (directory_.path() / "sources").string()),
        absl::StrCat("--model-root=", models().string()),
        absl::StrCat("--state-dir=", (directory_.path() / "state").string()), "--threads=1"};
    process_ = std::make_unique<ServiceProcess>(QUANTLOOM_QUANTIZER, arguments, directory_.path(),
                                                max_file_bytes);
    ASSERT_NE(process_->port(), 0) << process_->Log();
    const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", process_->port()),
                                             grpc::InsecureChannelCredentials());
    // A call made before would fail with the first attempt to connect.
    ASSERT_TRUE(channel->WaitForConnected(absl::ToChronoTime(absl::Now() + absl::Seconds(30))))
        << process_->Log();
    stub_ = v1::QuantizationService::NewStub(channel);
  }

  static v1::QuantizeRequest Request(const std::string& output, const std::string& recipe) {
    v1::QuantizeRequest request;
    request.set_request_id(output);
    request.set_source("tiny");
    request.set_output(output);
    request.set_recipe(recipe);
    request.set_seed(3);
    request.mutable_calibration()->set_inline_text("The quick brown fox jumps over the lazy dog.");
    request.mutable_calibration()->set_tokens(32);
    return request;
  }
  static v1::QuantizeRequest Request(const std::string& output) {
    return Request(output, "icquant:bits=2,outliers=0.05,inner=kmeans");
  }

  // The job of the request, started or attached to.
  v1::Job StartJob(const v1::QuantizeRequest& request) {
    grpc::ClientContext context;
    const auto reader = stub_->Quantize(&context, request);
    v1::QuantizeEvent event;
    EXPECT_TRUE(reader->Read(&event)) << reader->Finish().error_message() << process_->Log();
    context.TryCancel();
    return event.job();
  }

  v1::Job WaitForEnd(const std::string& name) {
    grpc::ClientContext context;
    v1::WatchJobRequest request;
    request.set_name(name);
    const auto reader = stub_->WatchJob(&context, request);
    v1::QuantizeEvent event;
    uint64_t sequence = 0;
    while (reader->Read(&event)) {
      EXPECT_GT(event.sequence(), sequence);
      sequence = event.sequence();
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message() << process_->Log();
    return event.job();
  }

  // Waits until the job has staged more than `files` files; how many, or 0 when it has published.
  size_t WaitForStaged(const std::string& name, const std::string& output, size_t files) {
    while (!fs::exists(models() / output)) {
      std::error_code error;
      size_t count = 0;
      for (fs::recursive_directory_iterator it(models() / (".staging-" + name), error), end;
           !error && it != end; it.increment(error)) {
        ++count;
      }
      if (count > files) return count;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return 0;
  }

  testing::TemporaryDirectory directory_;
  std::unique_ptr<ServiceProcess> process_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
  std::string log_;
};

TEST_F(QuantizerProcessTest, KilledInTheMiddle_ResumesAndPublishesTheSameBytes) {
  Start();
  const v1::Job undisturbed = WaitForEnd(StartJob(Request("undisturbed")).name());
  ASSERT_EQ(undisturbed.state(), v1::JOB_STATE_SUCCEEDED) << undisturbed.DebugString();

  const std::string name = StartJob(Request("killed")).name();
  uint32_t kills = 0;
  size_t staged = 0;
  for (; kills < 4; ++kills) {
    staged = WaitForStaged(name, "killed", staged + 4);
    if (staged == 0) break;
    process_->Signal(SIGKILL);
    EXPECT_EQ(process_->Wait(), -SIGKILL);
    Start();
  }
  EXPECT_GE(kills, 2u) << "the job was too fast to be interrupted";
  const v1::Job killed = WaitForEnd(name);
  EXPECT_EQ(killed.state(), v1::JOB_STATE_SUCCEEDED) << killed.DebugString();
  EXPECT_EQ(killed.resumes(), kills);
  EXPECT_EQ(killed.request_id(), "killed");

  const auto expected = ReadDirectory(models() / "undisturbed");
  const auto found = ReadDirectory(models() / "killed");
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [file, contents] : expected) {
    ASSERT_TRUE(found.count(file)) << file;
    EXPECT_TRUE(found.at(file) == contents) << file << " differs";
  }
  for (const auto& entry : fs::directory_iterator(models())) {
    EXPECT_FALSE(absl::StartsWith(entry.path().filename().string(), ".")) << entry.path();
  }
}

TEST_F(QuantizerProcessTest, KilledAtAnyTime_EndsEachJobOnce) {
  std::mt19937 random(7);
  Start();
  std::map<std::string, std::string> jobs;  // output -> name
  for (int i = 0; i < 3; ++i) {
    const std::string output = absl::StrCat("model-", i);
    jobs[output] = StartJob(Request(output)).name();
  }
  for (int kill = 0; kill < 6; ++kill) {
    absl::SleepFor(absl::Milliseconds(std::uniform_int_distribution<int>(1, 400)(random)));
    process_->Signal(SIGKILL);
    process_->Wait();
    Start();
  }
  const auto expected = [&] {
    WaitForEnd(jobs["model-0"]);
    return ReadDirectory(models() / "model-0");
  }();
  for (const auto& [output, name] : jobs) {
    const v1::Job job = WaitForEnd(name);
    EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.DebugString() << process_->Log();
    EXPECT_EQ(StartJob(Request(output)).name(), name) << "the request is still known";
    EXPECT_TRUE(ReadDirectory(models() / output) == expected) << output;
  }
}

TEST_F(QuantizerProcessTest, KilledTooOften_FailsTheJobAndSaysWhy) {
  const auto start = [this] { Start(/*max_file_bytes=*/0, /*max_job_crashes=*/2); };
  start();
  const std::string name = StartJob(Request("deadly")).name();
  size_t staged = 0;
  for (int kill = 0; kill < 2; ++kill) {
    staged = WaitForStaged(name, "deadly", staged + 4);
    ASSERT_NE(staged, 0u) << "the job was too fast to be interrupted";
    process_->Signal(SIGKILL);
    process_->Wait();
    start();
  }
  const v1::Job job = WaitForEnd(name);
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(job.error().message(), HasSubstr("ended 2 times while it worked on this job"));
  EXPECT_TRUE(fs::is_empty(models())) << "its staging directory is gone";
  // The output is free again, and other jobs go on.
  v1::QuantizeRequest again = Request("deadly");
  again.set_request_id("again");
  EXPECT_EQ(WaitForEnd(StartJob(again).name()).state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QuantizerProcessTest, Terminated_StopsCleanlyAndTheJobGoesOnAtTheNextStart) {
  Start();
  const std::string name = StartJob(Request("model")).name();
  ASSERT_NE(WaitForStaged(name, "model", 4), 0u);

  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_name(name);
  const auto reader = stub_->WatchJob(&context, request);
  v1::QuantizeEvent event;
  ASSERT_TRUE(reader->Read(&event));
  process_->Signal(SIGTERM);
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(process_->Wait(), 0);
  EXPECT_THAT(process_->Log(), HasSubstr("job interrupted, to be resumed"));

  Start();
  const v1::Job job = WaitForEnd(name);
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.resumes(), 1u);
}

TEST_F(QuantizerProcessTest, FullDisk_FailsTheJobAndTheServiceGoesOn) {
  // The packed model is larger than any file may be; the job store is smaller.
  Start(/*max_file_bytes=*/1 << 20);
  const v1::Job job =
      WaitForEnd(StartJob(Request("model", "icquant:bits=8,inner=rtn,outliers=0")).name());
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().code(), 8) << job.DebugString();
  EXPECT_THAT(job.error().message(), HasSubstr(".safetensors"));
  EXPECT_TRUE(fs::is_empty(models()));
  const v1::Job small =
      WaitForEnd(StartJob(Request("small", "icquant:bits=2,inner=rtn,outliers=0")).name());
  EXPECT_EQ(small.state(), v1::JOB_STATE_SUCCEEDED) << small.DebugString();
}

TEST_F(QuantizerProcessTest, Sources_ThatTheEngineCannotUseAreRefused) {
  const fs::path broken = directory_.path() / "sources/broken";
  fs::create_directories(broken);
  ASSERT_TRUE(
      WriteFileAtomically(broken / "config.json", R"({"architectures": ["GPT2LMHeadModel"]})")
          .ok());
  ASSERT_TRUE(WriteFileAtomically(directory_.path() / "sources/text.gguf", "no GGUF").ok());
  Start();
  const auto refusal = [this](const char* source) {
    v1::QuantizeRequest request = Request(absl::StrCat("from-", source));
    request.set_source(source);
    grpc::ClientContext context;
    const auto reader = stub_->Quantize(&context, request);
    v1::QuantizeEvent event;
    EXPECT_FALSE(reader->Read(&event)) << source;
    return FromGrpcStatus(reader->Finish());
  };
  for (const char* source : {"broken", "text.gguf", "."}) {
    const absl::Status status = refusal(source);
    EXPECT_THAT(status.code(),
                ::testing::AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound))
        << status;
    EXPECT_EQ(ViolatedField(status), "source") << status;
  }
  EXPECT_THAT(std::string(refusal("broken").message()), HasSubstr("GPT2LMHeadModel"));

  v1::QuantizeRequest unmatched = Request("unmatched");
  unmatched.add_overrides()->set_pattern("no.such.tensor");
  unmatched.mutable_overrides(0)->set_recipe("icquant:bits=3");
  grpc::ClientContext context;
  const auto reader = stub_->Quantize(&context, unmatched);
  v1::QuantizeEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(ViolatedField(FromGrpcStatus(reader->Finish())), "overrides[0]");
}

TEST_F(QuantizerProcessTest, Evaluation_IsPartOfTheResult) {
  Start();
  v1::QuantizeRequest request = Request("model");
  std::string text;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&text, "Line ", i, " of a text to score.\n");
  request.mutable_evaluation()->set_inline_text(text);
  request.mutable_evaluation()->set_windows(2);
  request.mutable_evaluation()->set_window_tokens(64);
  const v1::Job job = WaitForEnd(StartJob(request).name());
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.result().quality().text_name(), "inline");
  EXPECT_GT(job.result().quality().perplexity_packed(), 1);
  EXPECT_GT(job.result().linear_bits_per_weight(), 2);
  EXPECT_LT(job.result().linear_bits_per_weight(), 4);
  EXPECT_TRUE(fs::exists(fs::path(job.result().path()) / "quality.json"));
}

TEST_F(QuantizerProcessTest, Metrics_TellOfWorkDone) {
  Start();
  WaitForEnd(StartJob(Request("model")).name());
  const std::string text = HttpGet(process_->metrics_port(), "/metrics");
  for (const char* name :
       {"quantloom_jobs{state=\"succeeded\"} 1", "quantloom_weights_quantized_total{codec=",
        "quantloom_tensor_quantize_seconds_count{codec=\"icquant\"}",
        "quantloom_tensor_relative_error_bucket{codec=\"icquant\"",
        "quantloom_job_duration_seconds_sum{state=\"succeeded\"}", "quantloom_build_info{",
        "process_resident_memory_bytes", "quantloom_job_resumes_total 0"}) {
    EXPECT_THAT(text, HasSubstr(name));
  }
}

TEST_F(QuantizerProcessTest, Log_TellsWhichRequestAJobCameFrom) {
  Start();
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "nightly-7");
  const auto reader = stub_->Quantize(&context, Request("logged"));
  v1::QuantizeEvent event;
  while (reader->Read(&event)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  const std::string admitted =
      absl::StrCat("job admitted job=", event.job().name(), " request_id=nightly-7 trace_id=");
  EXPECT_THAT(process_->Log(), HasSubstr(admitted));
  process_->Signal(SIGTERM);  // after it every call has its line
  EXPECT_EQ(process_->Wait(), 0);
  EXPECT_THAT(process_->Log(),
              HasSubstr("rpc method=quantloom.v1.QuantizationService/Quantize code=OK seconds="));
  EXPECT_THAT(process_->Log(), HasSubstr(absl::StrCat(" job=", event.job().name(), "\n")));
}

TEST_F(QuantizerProcessTest, Start_RefusesAStateDirectoryInUseAndWrongSettings) {
  Start();
  const auto start_another = [this](std::vector<std::string> arguments) {
    testing::TemporaryDirectory directory;
    ServiceProcess process(QUANTLOOM_QUANTIZER, std::move(arguments), directory.path());
    const int code = process.Wait();
    log_ = process.Log();
    return code;
  };
  const std::string sources = absl::StrCat("--source-root=", directory_.path().string());
  const std::string root = absl::StrCat("--model-root=", models().string());
  const std::string state = absl::StrCat("--state-dir=", (directory_.path() / "state").string());
  EXPECT_EQ(start_another({sources, root, state}), 1);
  EXPECT_THAT(log_, HasSubstr("in use by another process"));
  EXPECT_EQ(start_another({sources, "--model-root=/nonexistent", state}), 1);
  EXPECT_THAT(log_, HasSubstr("model-root"));
  EXPECT_EQ(start_another({sources, root}), 2);
  EXPECT_THAT(log_, HasSubstr("--state-dir"));
  EXPECT_EQ(start_another({sources, root, state, "--theads=2"}), 2);
  EXPECT_EQ(start_another({sources, root, state, "--device=gpu"}), 2);
  EXPECT_THAT(log_, HasSubstr("--device: must be auto, cpu, cuda or cuda:N"));
}

}  // namespace
}  // namespace quantloom
