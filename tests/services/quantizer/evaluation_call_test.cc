// The stream of one evaluation over gRPC on loopback; the test is what works on it.
#include "services/quantizer/evaluation_call.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>

#include "absl/strings/str_cat.h"
#include "quantloom/v1/quantization.grpc.pb.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

class OneCallService final : public v1::QuantizationService::WithRawCallbackMethod_Evaluate<
                                 v1::QuantizationService::Service> {
 public:
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Evaluate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer*) override {
    const std::shared_ptr<EvaluationCall> call = EvaluationCall::Start(*context);
    {
      const std::lock_guard lock(mutex_);
      call_ = call;
    }
    arrived_.notify_all();
    return call.get();
  }
  std::shared_ptr<EvaluationCall> Await() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return call_ != nullptr; });
    return std::move(call_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::shared_ptr<EvaluationCall> call_;
};

class EvaluationCallTest : public ::testing::Test {
 protected:
  EvaluationCallTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::QuantizationService::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
    reader_ = stub_->Evaluate(&context_, {});
    call_ = service_.Await();
  }
  ~EvaluationCallTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  static v1::EvaluateResponse Window(uint32_t index, int positions = 1) {
    v1::EvaluateResponse response;
    response.mutable_window()->set_index(index);
    for (int i = 0; i < positions; ++i) response.mutable_window()->add_kl(i);
    return response;
  }
  // Reads to the stream's end: indices in order from 0; how many.
  uint32_t ReadAll() {
    uint32_t count = 0;
    for (v1::EvaluateResponse response; reader_->Read(&response); ++count) {
      EXPECT_EQ(response.window().index(), count);
    }
    return count;
  }
  absl::Status Finish() { return FromGrpcStatus(reader_->Finish()); }

  OneCallService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::EvaluateResponse>> reader_;
  std::shared_ptr<EvaluationCall> call_;
};

TEST_F(EvaluationCallTest, ResultsArriveInOrderAndTheEndAfterThem) {
  EXPECT_TRUE(call_->Wanted().ok());
  for (uint32_t i = 0; i < 100; ++i) call_->Send(Window(i));
  call_->End(absl::DataLossError("the end"));
  call_->End(absl::OkStatus());
  call_->Send(Window(100));
  EXPECT_EQ(call_->Wanted().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReadAll(), 100u);
  EXPECT_EQ(Finish(), absl::DataLossError("the end"));
}

TEST_F(EvaluationCallTest, ACallerThatReadsNothingIsEndedInBoundedMemory) {
  uint32_t sent = 0;
  for (; call_->Wanted().ok(); ++sent) {
    ASSERT_LT(sent, 1000u);
    call_->Send(Window(sent, /*positions=*/32'768));  // 256 KiB
  }
  EXPECT_EQ(call_->Wanted().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(sent, EvaluationCall::kMaxWaitingBytes / (256 << 10));
  call_->End(absl::OkStatus());
  EXPECT_LT(ReadAll(), sent / 2) << "what gRPC does not hold yet has been dropped";
  EXPECT_EQ(Finish().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(EvaluationCallTest, ACallerThatGivesUpEndsIt) {
  context_.TryCancel();
  while (call_->Wanted().ok()) call_->Send(Window(0));
  EXPECT_EQ(call_->Wanted().code(), absl::StatusCode::kCancelled);
  ReadAll();
  EXPECT_EQ(Finish().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace quantloom
