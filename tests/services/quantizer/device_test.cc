// The quantizer on a CUDA device, emulated, and on one that fails: clients, health and the jobs
// that wait, over loopback.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "quantloom/v1/quantization.grpc.pb.h"
#include "services/quantizer/quantizer.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/services/common/health.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom::testing {
namespace {

namespace fs = std::filesystem;
using cuda_emulation::EmulatedDevice;
using ::testing::HasSubstr;

// So that what hangs fails.
constexpr absl::Duration kPatience = absl::Minutes(2);

class CudaQuantizerTest : public ::testing::Test {
 protected:
  CudaQuantizerTest() {
    WriteTinyModel(directory_.path() / "sources/tiny", /*seed=*/1);
    fs::create_directories(models());
    options_.grpc.address = "127.0.0.1:0";
    options_.grpc.metrics_address = "";  // its HTTP server takes two seconds to stop
    options_.grpc.grace_period = absl::Seconds(1);
    options_.source_root = directory_.path() / "sources";
    options_.model_root = models();
    options_.state_dir = directory_.path() / "state";
    options_.threads = 1;
  }

  fs::path models() const { return directory_.path() / "models"; }

  void Start(std::shared_ptr<const Device> device) {
    auto quantizer = Quantizer::Start(options_, std::move(device));
    ASSERT_TRUE(quantizer.ok()) << quantizer.status();
    quantizer_ = *std::move(quantizer);
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", quantizer_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::QuantizationService::NewStub(channel_);
  }

  void Stop() {
    quantizer_->Drain();
    quantizer_.reset();
  }

  // Admits a job that is calibrated, and so computes on the device, and returns its name.
  std::string Admit(const std::string& output, uint32_t calibration_tokens = 64) {
    v1::QuantizeRequest request;
    request.set_source("tiny");
    request.set_output(output);
    request.set_recipe("icquant:bits=2,inner=rtn,outliers=0");
    request.mutable_calibration()->set_tokens(calibration_tokens);
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kPatience));
    const auto reader = stub_->Quantize(&context, request);
    v1::QuantizeEvent event;
    EXPECT_TRUE(reader->Read(&event)) << reader->Finish().error_message();
    context.TryCancel();
    return event.job().name();
  }

  v1::Job WaitForEnd(const std::string& name) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kPatience));
    v1::WatchJobRequest request;
    request.set_name(name);
    const auto reader = stub_->WatchJob(&context, request);
    v1::QuantizeEvent event;
    while (reader->Read(&event)) {
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return event.job();
  }

  v1::Job GetJob(const std::string& name) {
    grpc::ClientContext context;
    v1::GetJobRequest request;
    request.set_name(name);
    v1::Job job;
    EXPECT_TRUE(stub_->GetJob(&context, request, &job).ok());
    return job;
  }

  // The job ends before the listener of the device's failure has told everybody.
  bool BecomesNotServing() {
    for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
      if (CheckHealth(channel_, "") == Health::kNotServing) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }

  TemporaryDirectory directory_;
  QuantizerOptions options_;
  std::unique_ptr<Quantizer> quantizer_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
};

TEST_F(CudaQuantizerTest, JobsRunOnTheDevice) {
  Start(std::make_shared<EmulatedDevice>());
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
  const v1::Job job = WaitForEnd(Admit("model"));
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.progress().device(), "cuda:0");
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
}

TEST_F(CudaQuantizerTest, ADeviceThatFailsEndsTheJobAndTheNextProcessTakesTheRest) {
  const auto device = std::make_shared<EmulatedDevice>();
  device->FailAfter(200);  // calls of CUDA, when some tensors are encoded
  Start(device);
  const std::string first = Admit("first");
  const std::string second = Admit("second");
  const v1::Job failed = WaitForEnd(first);
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(failed.error().message(),
              HasSubstr("device cuda:0 failed: an illegal memory access was encountered"));
  EXPECT_EQ(failed.progress().phase(), v1::JOB_PHASE_ENCODING);
  EXPECT_TRUE(BecomesNotServing());
  EXPECT_EQ(CheckHealth(channel_, "quantloom.v1.QuantizationService"), Health::kNotServing);
  EXPECT_TRUE(fs::is_empty(models())) << "its staging directory is gone";
  // Clients are answered, and jobs wait.
  const std::string third = Admit("third");
  EXPECT_EQ(GetJob(second).state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(GetJob(third).state(), v1::JOB_STATE_QUEUED);
  Stop();

  Start(std::make_shared<EmulatedDevice>());
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
  for (const std::string& name : {second, third}) {
    const v1::Job job = WaitForEnd(name);
    EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.DebugString();
  }
  EXPECT_EQ(GetJob(first).state(), v1::JOB_STATE_FAILED);
}

TEST_F(CudaQuantizerTest, MemoryThatCannotBeHadFailsTheJobAlone) {
  Start(std::make_shared<EmulatedDevice>(/*memory_bytes=*/100000));
  const v1::Job failed = WaitForEnd(Admit("calibrated"));
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(failed.error().message(), HasSubstr("of the 100000 of emulation are available"));
  // Without calibration the device is not asked for memory.
  const v1::Job job = WaitForEnd(Admit("plain", /*calibration_tokens=*/0));
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.DebugString();
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
}

}  // namespace
}  // namespace quantloom::testing
