// The executable: start, health, metrics, SIGTERM.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <cmath>
#include <csignal>
#include <map>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/rpc_status.h"
#include "tests/services/common/http_get.h"
#include "tests/services/common/service_process.h"
#include "tests/services/server/server_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(60);

bool WaitForHealth(const std::shared_ptr<grpc::Channel>& channel, Health expected) {
  for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
    if (CheckHealth(channel, "") == expected) return true;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return false;
}

// Samples of a scrape: name with labels -> value.
std::map<std::string, double> Scrape(int port) {
  std::istringstream text(HttpGet(port, "/metrics"));
  std::map<std::string, double> samples;
  for (std::string line; std::getline(text, line);) {
    const size_t space = line.rfind(' ');
    double value = 0;
    if (line.empty() || line[0] == '#' || space == std::string::npos) continue;
    if (absl::SimpleAtod(line.substr(space + 1), &value)) samples[line.substr(0, space)] = value;
  }
  return samples;
}

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override { WritePackedModel(directory_.path() / "models", "tiny", /*seed=*/1); }

  ServiceProcess Start(std::vector<std::string> flags) {
    flags.insert(flags.begin(),
                 absl::StrCat("--model-root=", (directory_.path() / "models").string()));
    return ServiceProcess(QUANTLOOM_SERVER, std::move(flags), directory_.path());
  }
  void Connect(const ServiceProcess& server) {
    channel_ = NewChannel(server.port());
    stub_ = v1::GenerationService::NewStub(channel_);
  }
  static v1::GenerateRequest Request(uint32_t tokens) {
    v1::GenerateRequest request;
    request.set_prompt("the rain");
    request.set_max_tokens(tokens);
    request.set_ignore_eos(true);
    return request;
  }

  TemporaryDirectory directory_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
};

TEST_F(ProcessTest, ServesOnceLoadedAndExitsCleanlyOnSigterm) {
  ServiceProcess server = Start({"--load=tiny", "--grace-period=60s"});
  Connect(server);
  ASSERT_TRUE(WaitForHealth(channel_, Health::kServing));
  EXPECT_EQ(CheckHealth(channel_, "quantloom.v1.GenerationService"), Health::kServing);
  EXPECT_EQ(CheckHealth(channel_, "quantloom.v1.ModelService"), Health::kServing);
  const std::string expected = ReadStream(*stub_, Request(1500), absl::InfiniteDuration()).text;

  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, Request(1500));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::string text = response.text();
  server.Signal(SIGTERM);
  EXPECT_TRUE(WaitForHealth(channel_, Health::kNotServing) ||
              CheckHealth(channel_, "") == Health::kUnreachable);
  while (stream->Read(&response)) text += response.text();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(text, expected);
  EXPECT_EQ(server.Wait(), 0);
}

TEST_F(ProcessTest, GracePeriodOver_EndsStreamsAsUnavailable) {
  ServiceProcess server = Start({"--load=tiny", "--grace-period=100ms"});
  Connect(server);
  ASSERT_TRUE(WaitForHealth(channel_, Health::kServing));
  // A stream that is not read goes on for ever.
  v1::GenerateRequest request = Request(4000);
  request.set_logprobs(20);
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ProcessTest, Metrics_TellWhatWasServed) {
  ServiceProcess server = Start({"--load-all", "--threads=1"});
  Connect(server);
  ASSERT_TRUE(WaitForHealth(channel_, Health::kServing));
  const int port = server.metrics_port();
  std::map<std::string, double> before = Scrape(port);
  const std::string model = "{model=\"tiny\"}";
  v1::GenerateRequest request = Request(30);
  request.clear_prompt();
  for (int i = 1; i <= 12; ++i) request.mutable_prompt_tokens()->add_ids(i);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(ReadStream(*stub_, request, absl::InfiniteDuration()).status.ok());
  }
  request.mutable_sampling()->set_top_p(7);
  EXPECT_FALSE(ReadStream(*stub_, request, absl::InfiniteDuration()).status.ok());
  for (const char* counted :
       {"OK\",method=\"quantloom.v1.GenerationService/Generate\"} 3",
        "INVALID_ARGUMENT\",method=\"quantloom.v1.GenerationService/Generate\"} 1"}) {
    HttpGetUntil(port, "/metrics", counted);
  }
  const std::map<std::string, double> after = Scrape(port);
  const auto value = [&](const std::string& name) {
    const auto found = after.find(name);
    if (found != after.end()) return found->second;
    ADD_FAILURE() << "no metric " << name;
    return std::nan("");
  };
  const auto grown = [&](const std::string& name) { return value(name) - before[name]; };

  EXPECT_EQ(grown("quantloom_prompt_tokens_total" + model), 12 + 1 + 1) << "computed";
  EXPECT_EQ(grown("quantloom_prefix_cache_hit_tokens_total" + model), 11 + 11);
  EXPECT_EQ(value("quantloom_kv_cache_usage_ratio" + model), 0);
  EXPECT_GT(value("quantloom_kv_cache_cached_ratio" + model), 0);
  EXPECT_EQ(grown("quantloom_generated_tokens_total" + model), 90);
  EXPECT_EQ(grown("quantloom_preemptions_total" + model), 0);
  EXPECT_GT(grown("quantloom_weight_bytes_read_total" + model), 90 * 1000);
  EXPECT_EQ(value("quantloom_requests_running" + model), 0);
  EXPECT_EQ(value("quantloom_requests_waiting" + model), 0);
  EXPECT_EQ(value("quantloom_kv_cache_usage_ratio" + model), 0);
  EXPECT_EQ(value("quantloom_batch_size" + model), 1);
  EXPECT_EQ(value("quantloom_time_to_first_token_seconds_count" + model), 3);
  EXPECT_GT(value("quantloom_time_to_first_token_seconds_sum" + model), 0);
  EXPECT_EQ(value("quantloom_inter_token_latency_seconds_count" + model), 3 * 29);
  EXPECT_EQ(value("quantloom_queue_time_seconds_count" + model), 3);
  EXPECT_EQ(value("quantloom_requests_total{code=\"OK\","
                  "method=\"quantloom.v1.GenerationService/Generate\"}"),
            3);
  EXPECT_EQ(value("quantloom_requests_total{code=\"INVALID_ARGUMENT\","
                  "method=\"quantloom.v1.GenerationService/Generate\"}"),
            1);
  bool info = false;
  for (const auto& [name, one] : after) {
    if (name.rfind("quantloom_model_info{", 0) != 0) continue;
    info = true;
    EXPECT_EQ(one, 1);
    EXPECT_THAT(name, HasSubstr("model=\"tiny\""));
    EXPECT_THAT(name, HasSubstr("codec=\"icquant\""));
    EXPECT_THAT(name, HasSubstr("bits_per_weight=\"4."));
  }
  EXPECT_TRUE(info);
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
}

TEST_F(ProcessTest, WrongSettings_AreRefused) {
  EXPECT_EQ(Start({"--prefill-chunk=0"}).Wait(), 2);
  EXPECT_EQ(Start({"--verify=perhaps"}).Wait(), 2);
  EXPECT_EQ(Start({"--no-such-flag=1"}).Wait(), 2);
  EXPECT_EQ(Start({"--model-root=/nonexistent"}).Wait(), 1);
  EXPECT_EQ(Start({"--load=absent"}).Wait(), 1);
  EXPECT_EQ(Start({"--load=../tiny"}).Wait(), 1);
}

TEST_F(ProcessTest, WrongDeviceSettings_AreRefusedNamingWhatTheyMayBe) {
  ServiceProcess device = Start({"--device=gpu"});
  EXPECT_EQ(device.Wait(), 2);
  EXPECT_THAT(device.Log(), HasSubstr("--device: must be auto, cpu, cuda or cuda:N"));
  ServiceProcess prefill = Start({"--cuda-prefill=tensor"});
  EXPECT_EQ(prefill.Wait(), 2);
  EXPECT_THAT(prefill.Log(), HasSubstr("--cuda-prefill: tensor not in {fused,cublas}"));
}

TEST_F(ProcessTest, WithoutAGpu_CudaIsRefusedAndAutoTakesTheCpu) {
  ServiceProcess chosen = Start({"--device=auto", "--cuda-prefill=cublas"});
  ASSERT_NE(chosen.port(), 0) << chosen.Log();
  chosen.Signal(SIGTERM);
  EXPECT_EQ(chosen.Wait(), 0);
  if (chosen.Log().find("device name=cuda:0") != std::string::npos) {
    GTEST_SKIP() << "there is a CUDA device";
  }
  EXPECT_THAT(chosen.Log(), HasSubstr("no CUDA device, so the CPU is used reason="));
  EXPECT_THAT(chosen.Log(), HasSubstr("device name=cpu"));
  for (const char* prefill : {"fused", "cublas"}) {
    ServiceProcess asked = Start({"--device=cuda", absl::StrCat("--cuda-prefill=", prefill)});
    EXPECT_EQ(asked.Wait(), 1);
    // Of a build without device code, and of one with it on a machine without a GPU.
    EXPECT_THAT(asked.Log(),
                AnyOf(HasSubstr("device: CUDA is not available: libquantloom_cuda.so: cannot open"),
                      HasSubstr("device: CUDA is not available: no NVIDIA driver"),
                      HasSubstr("device: cudaGetDeviceCount: ")));
  }
}

TEST_F(ProcessTest, MemoryLimit_TakesUnits) {
  ServiceProcess server = Start({"--load=tiny", "--memory-limit=1KiB"});
  EXPECT_EQ(server.Wait(), 1);
}

}  // namespace
}  // namespace quantloom::testing
