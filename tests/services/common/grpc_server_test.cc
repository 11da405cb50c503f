#include "services/common/grpc_server.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "quantloom/v1/quantization.grpc.pb.h"
#include "services/common/rpc_status.h"
#include "tests/services/common/health.h"
#include "tests/services/common/http_get.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

using testing::CheckHealth;
using ::testing::HasSubstr;
using testing::Health;
using ::testing::Not;

constexpr char kService[] = "quantloom.v1.QuantizationService";

// Answers GetJob with NOT_FOUND; WatchJob streams stay open until told to end.
class HangingService final : public v1::QuantizationService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context, const v1::GetJobRequest*,
                                   v1::Job*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(draining ? absl::UnavailableError("draining")
                                          : absl::NotFoundError("no such job")));
    return reactor;
  }

  grpc::ServerWriteReactor<v1::QuantizeEvent>* WatchJob(grpc::CallbackServerContext*,
                                                        const v1::WatchJobRequest*) override {
    return new Stream(this);
  }

  void EndStreams() {
    std::set<Stream*> streams;
    {
      const std::lock_guard lock(mutex_);
      streams.swap(streams_);
    }
    for (Stream* stream : streams) stream->Finish(ToGrpcStatus(absl::UnavailableError("ended")));
  }
  size_t streams() {
    const std::lock_guard lock(mutex_);
    return streams_.size();
  }

  std::atomic<bool> draining{false};

 private:
  class Stream final : public grpc::ServerWriteReactor<v1::QuantizeEvent> {
   public:
    explicit Stream(HangingService* service) : service_(service) {
      const std::lock_guard lock(service_->mutex_);
      service_->streams_.insert(this);
    }
    void OnCancel() override {
      {
        const std::lock_guard lock(service_->mutex_);
        if (service_->streams_.erase(this) == 0) return;
      }
      Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }

   private:
    HangingService* service_;
  };

  std::mutex mutex_;
  std::set<Stream*> streams_;
};

class GrpcServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.address = "127.0.0.1:0";
    options_.metrics_address = "127.0.0.1:0";
    options_.port_file = (directory_.path() / "port").string();
    options_.metrics_port_file = (directory_.path() / "metrics_port").string();
    options_.grace_period = absl::Milliseconds(200);
    auto server = GrpcServer::Start(options_, {&service_}, {kService}, metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::QuantizationService::NewStub(channel_);
  }

  grpc::Status GetJob() {
    grpc::ClientContext context;
    v1::Job job;
    return stub_->GetJob(&context, v1::GetJobRequest(), &job);
  }

  // Waits until a counter's line is among the metrics: calls are counted just after they end.
  std::string Scrape(const std::string& line) {
    return HttpGetUntil(metrics_.port(), "/metrics", line);
  }

  testing::TemporaryDirectory directory_;
  GrpcServerOptions options_;
  HangingService service_;
  Metrics metrics_{"quantloom-test"};
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
};

TEST_F(GrpcServerTest, Start_WritesBothPorts) {
  EXPECT_EQ(ReadFile(options_.port_file).value_or(""), absl::StrCat(server_->port(), "\n"));
  EXPECT_EQ(ReadFile(options_.metrics_port_file).value_or(""), absl::StrCat(metrics_.port(), "\n"));
}

TEST_F(GrpcServerTest, Start_RefusesAPortInUse) {
  GrpcServerOptions same = options_;
  same.address = absl::StrCat("127.0.0.1:", server_->port());
  Metrics metrics("quantloom-test");
  EXPECT_EQ(GrpcServer::Start(same, {&service_}, {kService}, metrics).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(GrpcServerTest, Start_RefusesAMetricsPortInUseAndMalformedAddresses) {
  Metrics metrics("quantloom-test");
  EXPECT_EQ(metrics.Serve(absl::StrCat("127.0.0.1:", metrics_.port())).code(),
            absl::StatusCode::kUnavailable);
  for (const char* address : {"", "localhost", ":1", "localhost:", "localhost:x", "h:65536"}) {
    EXPECT_EQ(metrics.Serve(address).code(), absl::StatusCode::kInvalidArgument) << address;
    GrpcServerOptions wrong = options_;
    wrong.address = address;
    EXPECT_EQ(GrpcServer::Start(wrong, {&service_}, {kService}, metrics).status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
}

TEST_F(GrpcServerTest, Health_IsNotServingUntilReadyAndThenServing) {
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kNotServing);
  EXPECT_EQ(CheckHealth(channel_, kService), Health::kNotServing);
  server_->SetServing(true);
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kServing);
  EXPECT_EQ(CheckHealth(channel_, kService), Health::kServing);
  EXPECT_EQ(CheckHealth(channel_, "quantloom.v1.Unknown"), Health::kUnknown);
}

TEST_F(GrpcServerTest, Metrics_CountAndTimeEveryCallByMethodAndCode) {
  EXPECT_EQ(GetJob().error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(GetJob().error_code(), grpc::StatusCode::NOT_FOUND);
  const std::string text = Scrape(
      "quantloom_requests_total{code=\"NOT_FOUND\","
      "method=\"quantloom.v1.QuantizationService/GetJob\"} 2");
  EXPECT_THAT(text, HasSubstr("quantloom_requests_total{code=\"NOT_FOUND\","
                              "method=\"quantloom.v1.QuantizationService/GetJob\"} 2"));
  EXPECT_THAT(text, HasSubstr("quantloom_request_duration_seconds_count{"
                              "method=\"quantloom.v1.QuantizationService/GetJob\"} 2"));
}

TEST_F(GrpcServerTest, Metrics_CountAnExpiredDeadlineAsSuch) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  auto reader = stub_->WatchJob(&context, v1::WatchJobRequest());
  v1::QuantizeEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const std::string line =
      "quantloom_requests_total{code=\"DEADLINE_EXCEEDED\","
      "method=\"quantloom.v1.QuantizationService/WatchJob\"} 1";
  EXPECT_THAT(Scrape(line), HasSubstr(line));
}

TEST_F(GrpcServerTest, Metrics_DoNotTakeMethodNamesFromClients) {
  grpc::GenericStub generic(channel_);
  for (const char* method : {"/quantloom.v1.QuantizationService/Nonsense", "/a/b"}) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::ByteBuffer in;
    grpc::Slice slice("");
    const grpc::ByteBuffer out(&slice, 1);
    grpc::Status status;
    auto call = generic.PrepareUnaryCall(&context, method, out, &queue);
    call->StartCall();
    call->Finish(&in, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  EXPECT_EQ(GetJob().error_code(), grpc::StatusCode::NOT_FOUND);
  const std::string text = Scrape("GetJob");
  EXPECT_THAT(text, HasSubstr("GetJob"));
  EXPECT_THAT(text, Not(HasSubstr("Nonsense")));
  EXPECT_THAT(text, Not(HasSubstr("/a/b")));
}

TEST_F(GrpcServerTest, Metrics_DescribeTheProcess) {
  const std::string text = Scrape("process_");
  for (const char* name :
       {"quantloom_build_info{", "process_resident_memory_bytes ", "process_cpu_seconds_total ",
        "process_open_fds ", "process_max_fds ", "process_start_time_seconds "}) {
    EXPECT_THAT(text, HasSubstr(name));
  }
  const size_t at = text.find("\nprocess_start_time_seconds ");
  const double start = std::stod(text.substr(at + sizeof("\nprocess_start_time_seconds ") - 1));
  EXPECT_NEAR(start, absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()), 600);
}

TEST_F(GrpcServerTest, Drain_EndsAnIdleServerAtOnce) {
  bool stopped = false;
  server_->Drain({.stop_admitting = [&] { stopped = true; },
                  .end_streams = [] { FAIL() << "nothing was active"; }});
  EXPECT_TRUE(stopped);
  EXPECT_EQ(GetJob().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcServerTest, Drain_ReportsNotServingRefusesCallsAndEndsStreamsAfterTheGracePeriod) {
  server_->SetServing(true);
  grpc::ClientContext context;
  auto reader = stub_->WatchJob(&context, v1::WatchJobRequest());
  while (service_.streams() == 0) absl::SleepFor(absl::Milliseconds(1));

  std::thread drain([&] {
    server_->Drain({.stop_admitting = [&] { service_.draining = true; },
                    .end_streams = [&] { service_.EndStreams(); }});
  });
  while (!service_.draining) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(CheckHealth(channel_, ""), Health::kNotServing);
  EXPECT_EQ(GetJob().error_code(), grpc::StatusCode::UNAVAILABLE);
  v1::QuantizeEvent event;
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "ended");
  drain.join();
}

}  // namespace
}  // namespace quantloom
