// The server on a CUDA device, emulated, and on one that fails.
#include <gmock/gmock.h>

#include <array>
#include <map>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/quantize/quantize_model.h"
#include "services/common/configuration.h"
#include "services/common/device_metrics.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/services/server/server_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::HasSubstr;

class CudaServerTest : public ServerTest {
 protected:
  void StartOnCuda(uint64_t memory_bytes) {
    auto device =
        std::make_shared<cuda_emulation::EmulatedDevice>(memory_bytes, options_.prefill_mode());
    cuda_ = device.get();
    device_ = std::move(device);
    options_.engine.kv_tokens = 1024;
    StartServer();
  }
  grpc::Status Load() {
    v1::LoadModelRequest request;
    request.set_name("tiny");
    v1::Model model;
    grpc::ClientContext context;
    return models_->LoadModel(&context, request, &model);
  }
  // A stream ends with UNAVAILABLE and `message` after some of its 100 tokens, and nothing is
  // served from then on.
  void ExpectStreamIsCutAndNothingServed(const std::string& message) {
    const Generated cut = Generate(Request("once upon", 100));
    EXPECT_TRUE(absl::IsUnavailable(cut.status)) << cut.status;
    EXPECT_THAT(std::string(cut.status.message()), HasSubstr(message));
    EXPECT_GT(cut.tokens.size(), 0);
    EXPECT_LT(cut.tokens.size(), 100);
    EXPECT_EQ(CheckHealth(channel_, ""), Health::kNotServing);
    EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kNotServing);
    EXPECT_TRUE(absl::IsUnavailable(Generate(Request("again", 1)).status));
  }

  cuda_emulation::EmulatedDevice* cuda_ = nullptr;
};

TEST_F(CudaServerTest, AnswersFromTheDevice) {
  StartOnCuda(uint64_t{64} << 20);
  grpc::ClientContext context;
  v1::ServerInfo info;
  ASSERT_TRUE(models_->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.device(), "cuda:0");
  const Generated first = Generate(Request("once upon", 12));
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_EQ(first.tokens.size(), 12);
  EXPECT_EQ(Generate(Request("once upon", 12)).ids(), first.ids());
  EXPECT_GT(cuda_->runtime().counts().graph_launches, 10);
}

// What --cuda-prefill=`value` makes of the server's settings.
absl::Status ReadPrefill(const std::string& value, ServerOptions& options) {
  Configuration configuration("server", "");
  options.AddTo(configuration);
  const std::string flag = absl::StrCat("--cuda-prefill=", value);
  const std::array<const char*, 2> arguments = {"server", flag.c_str()};
  std::ostringstream out;
  if (configuration.Parse(arguments.size(), arguments.data(), out, out)) {
    return absl::InvalidArgumentError(out.str());
  }
  return absl::OkStatus();
}

TEST_F(CudaServerTest, PrefillBySettingIsFusedOrByCublas) {
  const v1::GenerateRequest request = Request(std::string(300, 'x'), 12);
  std::map<std::string, Generated> by_setting;
  for (const std::string setting : {"fused", "cublas"}) {
    const absl::Status read = ReadPrefill(setting, options_);
    ASSERT_TRUE(read.ok()) << read;
    options_.engine.prefill_chunk = 512;  // so that steps have the rows that cuBLAS takes
    StartOnCuda(uint64_t{128} << 20);
    by_setting[setting] = Generate(request);
    ASSERT_TRUE(by_setting[setting].status.ok()) << by_setting[setting].status;
    EXPECT_EQ(by_setting[setting].tokens.size(), 12);
    if (setting == "fused") {
      EXPECT_EQ(cuda_->dense(), nullptr);
    } else {
      EXPECT_GT(cuda_->dense()->products(), 0u);
    }
    StopServer();
  }
  EXPECT_THAT(std::string(ReadPrefill("tensor", options_).message()),
              HasSubstr("--cuda-prefill: tensor not in {fused,cublas}"));
}

TEST_F(CudaServerTest, MemoryForPrefillByCublasIsTakenWhenAModelIsLoaded) {
  options_.load = {};
  options_.cuda_prefill = "cublas";
  StartOnCuda(uint64_t{60} << 20);
  const grpc::Status status = Load();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(),
              HasSubstr("rows in fp16 for the dense library: asked for 67108864 bytes"));
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
}

TEST_F(CudaServerTest, GetModelNamesTheGpuThatATensorWasCalibratedOn) {
  const TemporaryDirectory sources;
  WriteTinyModel(sources.path() / "tiny", /*seed=*/1);
  QuantizeOptions job;
  job.source = sources.path() / "tiny";
  job.recipe = "icquant:bits=2,inner=rtn,outliers=0";
  job.calibration_tokens = 64;
  ThreadTeam team(1);
  const auto packed = QuantizeModel(
      job, root_.path() / "calibrated", cuda_emulation::EmulatedDevice(), team,
      [](const QuantizeProgress&) {}, [] { return false; });
  ASSERT_TRUE(packed.ok()) << packed.status();
  StartServer();
  v1::GetModelRequest request;
  request.set_name("calibrated");
  request.set_include_tensors(true);
  v1::Model model;
  grpc::ClientContext context;
  ASSERT_TRUE(models_->GetModel(&context, request, &model).ok());
  EXPECT_EQ(model.tensors_size(), 20);
  for (const v1::Tensor& tensor : model.tensors()) {
    EXPECT_EQ(tensor.calibration_device(), tensor.recipe() == "raw" ? "" : "emulation")
        << tensor.name();
  }
}

TEST_F(CudaServerTest, ADeviceThatFailsEndsStreamsAndIsNotServing) {
  StartOnCuda(uint64_t{64} << 20);
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kServing);
  cuda_->runtime().FailAfter(300);
  ExpectStreamIsCutAndNothingServed("the device failed: an illegal memory");
}

TEST_F(CudaServerTest, MemoryThatRunsOutEndsStreamsAndIsNotServing) {
  StartOnCuda(uint64_t{64} << 20);
  cuda_->TakeMemory(*cuda_->free_memory_bytes());
  // Steps of one row have not been recorded yet, for which CUDA needs memory.
  ExpectStreamIsCutAndNothingServed("the device failed: out of memory");
}

TEST_F(CudaServerTest, AModelThatDoesNotFitTheDevicesMemoryIsRefused) {
  options_.load = {};
  StartOnCuda(100000);
  const grpc::Status status = Load();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("100000 of the 100000 bytes of cuda:0 are free"));
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
}

TEST_F(CudaServerTest, MemoryThatOthersHaveTakenIsNotThere) {
  options_.load = {};
  StartOnCuda(uint64_t{64} << 20);
  cuda_->TakeMemory((uint64_t{64} << 20) - 50000);
  const grpc::Status status = Load();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("needs "));
  EXPECT_THAT(status.error_message(),
              HasSubstr("), and 50000 of the 67108864 bytes of cuda:0 are free"));
}

TEST_F(CudaServerTest, ADeviceThatHasFailedTakesNoModel) {
  options_.load = {};
  StartOnCuda(uint64_t{64} << 20);
  cuda_->FailAfter(0);
  const grpc::Status status = Load();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("the device failed: an illegal memory access"));
}

TEST_F(CudaServerTest, AModelsMemoryIsWhatItHasTakenOfTheDevices) {
  StartOnCuda(uint64_t{64} << 20);
  const uint64_t total = cuda_->memory_bytes();
  EXPECT_EQ(server_->models().MemoryUsed(), total - *cuda_->free_memory_bytes());
  EXPECT_GT(server_->models().MemoryUsed(), 100000u);
}

TEST(DeviceMemoryGauges, TellWhatIsUsedUntilTheDeviceFails) {
  cuda_emulation::EmulatedDevice device(/*memory_bytes=*/1000);
  device.TakeMemory(300);
  const DeviceMemoryGauges gauges(device);
  const auto values = [&] {
    std::map<std::string, double> found;
    for (const prometheus::MetricFamily& family : gauges.Collect()) {
      for (const prometheus::ClientMetric& metric : family.metric) {
        EXPECT_EQ(metric.label[0].value, "cuda:0");
        found[family.name] = metric.gauge.value;
      }
    }
    return found;
  };
  using Values = std::map<std::string, double>;
  EXPECT_EQ(values(), (Values{{"quantloom_device_memory_total_bytes", 1000},
                              {"quantloom_device_memory_used_bytes", 300}}));
  device.FailAfter(0);
  EXPECT_EQ(values(), (Values{{"quantloom_device_memory_total_bytes", 1000}}));
}

}  // namespace
}  // namespace quantloom::testing
