// The server on a CUDA device, emulated, and on one that fails.
#include <gmock/gmock.h>

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
  const cuda_emulation::EmulatedDevice* cuda_ = nullptr;
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
  v1::LoadModelRequest request;
  request.set_name("tiny");
  v1::Model model;
  grpc::ClientContext context;
  const grpc::Status status = models_->LoadModel(&context, request, &model);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("of the limit of 100000 are available"));
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
}

}  // namespace
}  // namespace quantloom::testing
