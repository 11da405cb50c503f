// No request of the quantizer, however formed, is answered as if the service had failed.
#include "tests/services/common/field_limits.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "quantloom/v1/quantization.grpc.pb.h"
#include "tests/services/common/service_process.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

constexpr size_t kLongBytes = 4096;

TEST(FieldLimitsTest, QuantizationService_BlamesTheRequestAndGoesOn) {
  const testing::TemporaryDirectory directory;
  testing::WriteTinyModel(directory.path() / "sources/tiny", /*seed=*/1);
  std::filesystem::create_directories(directory.path() / "models");
  testing::ServiceProcess quantizer(
      QUANTLOOM_QUANTIZER,
      {absl::StrCat("--source-root=", (directory.path() / "sources").string()),
       absl::StrCat("--model-root=", (directory.path() / "models").string()),
       absl::StrCat("--state-dir=", (directory.path() / "state").string()), "--threads=1",
       "--max-queued-jobs=2"},
      directory.path());
  ASSERT_NE(quantizer.port(), 0) << quantizer.Log();
  const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", quantizer.port()),
                                           grpc::InsecureChannelCredentials());
  v1::QuantizeRequest quantize;
  quantize.set_source("tiny");
  quantize.set_output("packed");
  quantize.set_recipe("icquant:bits=2");
  quantize.mutable_calibration()->set_inline_text("The quick brown fox.");
  quantize.mutable_calibration()->set_tokens(32);
  v1::EvaluateRequest evaluate;
  evaluate.set_source("tiny");
  evaluate.set_model("packed");
  evaluate.mutable_evaluation()->set_inline_text("The quick brown fox jumps over the lazy dog.");
  evaluate.mutable_evaluation()->set_windows(1);
  evaluate.mutable_evaluation()->set_window_tokens(8);
  testing::ExpectProperStatuses(channel, v1::QuantizationService::service_full_name(),
                                {&quantize, &evaluate}, kLongBytes);

  const auto stub = v1::QuantizationService::NewStub(channel);
  grpc::ClientContext context;
  v1::ListJobsResponse jobs;
  EXPECT_TRUE(stub->ListJobs(&context, {}, &jobs).ok());
  EXPECT_GT(jobs.jobs_size(), 0);
  quantizer.Signal(SIGTERM);
  EXPECT_EQ(quantizer.Wait(), 0) << quantizer.Log();
}

}  // namespace
}  // namespace quantloom
