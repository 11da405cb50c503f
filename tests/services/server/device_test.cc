// The server on a CUDA device, emulated, and on one that fails.
#include <gmock/gmock.h>

#include <map>
#include <string>

#include "services/common/device_metrics.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/services/server/server_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::HasSubstr;

class CudaServerTest : public ServerTest {
 protected:
  void StartOnCuda(uint64_t memory_bytes) {
    auto device = std::make_shared<cuda_emulation::EmulatedDevice>(memory_bytes);
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

TEST_F(CudaServerTest, ADeviceThatFailsEndsStreamsAndIsNotServing) {
  StartOnCuda(uint64_t{64} << 20);
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kServing);
  cuda_->runtime().FailAfter(300);
  const Generated cut = Generate(Request("once upon", 100));
  EXPECT_TRUE(absl::IsUnavailable(cut.status)) << cut.status;
  EXPECT_THAT(std::string(cut.status.message()), HasSubstr("the device failed: an illegal memory"));
  EXPECT_GT(cut.tokens.size(), 0);
  EXPECT_LT(cut.tokens.size(), 100);
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kNotServing);
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kNotServing);
  EXPECT_TRUE(absl::IsUnavailable(Generate(Request("again", 1)).status));
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
