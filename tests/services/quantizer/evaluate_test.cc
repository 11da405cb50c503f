// Evaluate on the executable itself: a tiny model is quantized and measured against its source.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cmath>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/file.h"
#include "core/base/sha256.h"
#include "quantloom/v1/quantization.grpc.pb.h"
#include "services/common/rpc_status.h"
#include "tests/services/common/service_process.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ServiceProcess;

constexpr uint32_t kWindowTokens = 64;
constexpr int kMaxWaiting = 16;  // evaluations, before the service refuses more

std::string Text(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) absl::StrAppend(&text, "Line ", i, " of a text to score.\n");
  return text;
}

class EvaluateTest : public ::testing::Test {
 protected:
  EvaluateTest() {
    testing::WriteTinyModel(sources() / "tiny", /*seed=*/1);
    fs::create_directories(models());
    process_.emplace(
        QUANTLOOM_QUANTIZER,
        std::vector<std::string>{absl::StrCat("--source-root=", sources().string()),
                                 absl::StrCat("--model-root=", models().string()),
                                 absl::StrCat("--state-dir=", (directory_.path() / "s").string()),
                                 "--threads=1"},
        directory_.path());
    stub_ = v1::QuantizationService::NewStub(grpc::CreateChannel(
        absl::StrCat("127.0.0.1:", process_->port()), grpc::InsecureChannelCredentials()));
    job_ = Quantize();
  }

  fs::path sources() const { return directory_.path() / "sources"; }
  fs::path models() const { return directory_.path() / "models"; }

  // A job with an evaluation of the same text as Request()'s.
  v1::Job Quantize() {
    v1::QuantizeRequest request;
    request.set_source("tiny");
    request.set_output("model");
    request.set_recipe("icquant:bits=2");
    request.mutable_calibration()->set_tokens(0);
    *request.mutable_evaluation() = Request().evaluation();
    grpc::ClientContext context;
    const auto reader = stub_->Quantize(&context, request);
    v1::QuantizeEvent event;
    while (reader->Read(&event)) {
    }
    EXPECT_EQ(event.job().state(), v1::JOB_STATE_SUCCEEDED) << process_->Log();
    return event.job();
  }

  static v1::EvaluateRequest Request(int lines = 60) {
    v1::EvaluateRequest request;
    request.set_source("tiny");
    request.set_model("model");
    request.mutable_evaluation()->set_inline_text(Text(lines));
    request.mutable_evaluation()->set_window_tokens(kWindowTokens);
    return request;
  }
  // One that takes minutes unless something ends it.
  static v1::EvaluateRequest LongRequest() { return Request(60'000); }

  struct Call {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::EvaluateResponse>> reader;
    bool AwaitWindow() {
      v1::EvaluateResponse response;
      return reader->Read(&response) && reader->Read(&response) && response.has_window();
    }
    absl::Status Finish() {
      v1::EvaluateResponse response;
      while (reader->Read(&response)) {
      }
      return FromGrpcStatus(reader->Finish());
    }
  };
  std::unique_ptr<Call> Start(const v1::EvaluateRequest& request,
                              std::chrono::milliseconds timeout = std::chrono::minutes(2)) {
    auto call = std::make_unique<Call>();
    call->context.set_deadline(std::chrono::system_clock::now() + timeout);
    call->reader = stub_->Evaluate(&call->context, request);
    return call;
  }

  struct Result {
    v1::EvaluationPlan plan;
    std::vector<v1::EvaluationWindow> windows;
    absl::Status status;
  };
  Result Evaluate(const v1::EvaluateRequest& request) {
    const auto call = Start(request);
    Result result;
    v1::EvaluateResponse response;
    while (call->reader->Read(&response)) {
      if (response.has_plan()) {
        EXPECT_TRUE(result.windows.empty()) << "the plan is first";
        result.plan = response.plan();
      } else {
        result.windows.push_back(response.window());
      }
    }
    result.status = FromGrpcStatus(call->reader->Finish());
    return result;
  }

  testing::TemporaryDirectory directory_;
  std::optional<ServiceProcess> process_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
  v1::Job job_;
};

TEST_F(EvaluateTest, Windows_TogetherAreTheReportOfTheJob) {
  const Result result = Evaluate(Request());
  ASSERT_TRUE(result.status.ok()) << result.status;
  ASSERT_EQ(result.windows.size(), result.plan.windows());
  ASSERT_GT(result.windows.size(), 3u);
  double nll_source = 0, nll_packed = 0, kl = 0;
  uint64_t tokens = 0, same = 0;
  for (uint32_t i = 0; i < result.windows.size(); ++i) {
    const v1::EvaluationWindow& window = result.windows[i];
    EXPECT_EQ(window.index(), i);
    EXPECT_EQ(window.scored_tokens(), kWindowTokens / 2);
    EXPECT_EQ(window.kl_size(), kWindowTokens / 2);
    nll_source += window.nll_source();
    nll_packed += window.nll_packed();
    for (const double position : window.kl()) kl += position;
    tokens += window.scored_tokens();
    same += window.same_top1();
  }
  const auto count = static_cast<double>(tokens);
  const v1::QualityMetrics& report = job_.result().quality();
  EXPECT_EQ(report.scored_tokens(), tokens);
  EXPECT_EQ(report.perplexity_source(), std::exp(nll_source / count));
  EXPECT_EQ(report.perplexity_packed(), std::exp(nll_packed / count));
  EXPECT_EQ(report.kl_mean(), kl / count);
  EXPECT_EQ(report.top1_agreement(), static_cast<double>(same) / count);

  EXPECT_EQ(result.plan.text_sha256(), report.text_sha256());
  EXPECT_EQ(result.plan.window_tokens(), kWindowTokens);
  EXPECT_EQ(result.plan.recipe(), job_.request().recipe());
  EXPECT_EQ(result.plan.linear_bits_per_weight(), job_.result().linear_bits_per_weight());
  EXPECT_EQ(result.plan.bits_per_weight(), job_.result().bits_per_weight());
  const std::string manifest = ReadFile(models() / "model/quantloom.json").value();
  EXPECT_EQ(result.plan.model_sha256(),
            Sha256::Of({reinterpret_cast<const uint8_t*>(manifest.data()), manifest.size()}));
  EXPECT_THAT(manifest, HasSubstr(result.plan.source_sha256()));
}

TEST_F(EvaluateTest, FirstWindow_GoesOnWithTheSameFigures) {
  const Result whole = Evaluate(Request());
  v1::EvaluateRequest request = Request();
  request.set_first_window(2);
  const Result rest = Evaluate(request);
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.plan.SerializeAsString(), whole.plan.SerializeAsString());
  ASSERT_EQ(rest.windows.size() + 2, whole.windows.size());
  for (size_t i = 0; i < rest.windows.size(); ++i) {
    EXPECT_EQ(rest.windows[i].SerializeAsString(), whole.windows[i + 2].SerializeAsString());
  }
  for (const uint32_t beyond : {whole.plan.windows(), 4'000'000'000u}) {
    request.set_first_window(beyond);
    const Result plan_alone = Evaluate(request);
    EXPECT_TRUE(plan_alone.status.ok()) << plan_alone.status;
    EXPECT_EQ(plan_alone.plan.windows(), whole.plan.windows());
    EXPECT_TRUE(plan_alone.windows.empty());
  }
}

TEST_F(EvaluateTest, Text_MayBeAFileUnderTheSourceRootAndAPartOfIt) {
  ASSERT_TRUE(WriteFileAtomically(sources() / "text.txt", Text(60)).ok());
  v1::EvaluateRequest request = Request();
  request.mutable_evaluation()->set_path("text.txt");
  request.mutable_evaluation()->set_windows(2);
  const Result result = Evaluate(request);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.plan.windows(), 2u);
  EXPECT_EQ(result.windows.size(), 2u);
  EXPECT_EQ(result.plan.text_sha256(), job_.result().quality().text_sha256());
}

TEST_F(EvaluateTest, BadInput_IsRefusedNamingTheField) {
  // A model of other tokens, one whose file was damaged, and a link to the outside.
  testing::WriteTinyModel(sources() / "other", /*seed=*/1);
  const fs::path tokenizer = sources() / "other/tokenizer.json";
  const std::string swapped = absl::StrReplaceAll(ReadFile(tokenizer).value(),
                                                  {{"\"A\":", "\"B\":"}, {"\"B\":", "\"A\":"}});
  ASSERT_NE(swapped, ReadFile(tokenizer).value());
  ASSERT_TRUE(WriteFileAtomically(tokenizer, swapped).ok());
  fs::copy(models() / "model", models() / "damaged", fs::copy_options::recursive);
  for (const auto& entry : fs::directory_iterator(models() / "damaged")) {
    if (entry.path().extension() != ".safetensors") continue;
    std::string bytes = ReadFile(entry.path()).value();
    bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 1);
    ASSERT_TRUE(WriteFileAtomically(entry.path(), bytes).ok());
  }
  fs::create_directory(models() / "empty");
  fs::create_directory_symlink(directory_.path(), models() / "escape");

  using Code = absl::StatusCode;
  struct Case {
    const char* name;
    std::function<void(v1::EvaluateRequest&)> change;
    Code code;
    const char* field;
  };
  const auto evaluation = [](v1::EvaluateRequest& r) { return r.mutable_evaluation(); };
  for (const Case& test : std::vector<Case>{
           {"no source", [](auto& r) { r.clear_source(); }, Code::kInvalidArgument, "source"},
           {"unknown source", [](auto& r) { r.set_source("no"); }, Code::kNotFound, "source"},
           {"source outside", [](auto& r) { r.set_source("../models"); }, Code::kPermissionDenied,
            "source"},
           {"no model there", [](auto& r) { r.set_source("."); }, Code::kNotFound, "source"},
           {"no model", [](auto& r) { r.clear_model(); }, Code::kInvalidArgument, "model"},
           {"unknown model", [](auto& r) { r.set_model("no"); }, Code::kNotFound, "model"},
           {"model path", [](auto& r) { r.set_model("../x"); }, Code::kInvalidArgument, "model"},
           {"model outside", [](auto& r) { r.set_model("escape"); }, Code::kPermissionDenied,
            "model"},
           {"not packed", [](auto& r) { r.set_model("empty"); }, Code::kInvalidArgument, "model"},
           {"damaged", [](auto& r) { r.set_model("damaged"); }, Code::kDataLoss, ""},
           {"other tokens", [](auto& r) { r.set_source("other"); }, Code::kInvalidArgument,
            "model"},
           {"no text", [](auto& r) { r.clear_evaluation(); }, Code::kInvalidArgument,
            "evaluation.text"},
           {"empty text", [&](auto& r) { evaluation(r)->set_inline_text(""); },
            Code::kInvalidArgument, "evaluation.inline_text"},
           {"short text", [&](auto& r) { evaluation(r)->set_inline_text("short"); },
            Code::kInvalidArgument, "evaluation.text"},
           {"long text",
            [&](auto& r) { evaluation(r)->set_inline_text(std::string((2 << 20) + 1, 'x')); },
            Code::kInvalidArgument, "evaluation.inline_text"},
           {"unknown text", [&](auto& r) { evaluation(r)->set_path("no.txt"); }, Code::kNotFound,
            "evaluation.path"},
           {"short window", [&](auto& r) { evaluation(r)->set_window_tokens(15); },
            Code::kInvalidArgument, "evaluation.window_tokens"},
           {"window over the context", [&](auto& r) { evaluation(r)->set_window_tokens(513); },
            Code::kInvalidArgument, "evaluation.window_tokens"}}) {
    v1::EvaluateRequest request = Request();
    test.change(request);
    const Result result = Evaluate(request);
    EXPECT_EQ(result.status.code(), test.code) << test.name << ": " << result.status;
    EXPECT_EQ(ViolatedField(result.status), test.field) << test.name << ": " << result.status;
    EXPECT_TRUE(result.windows.empty()) << test.name;
  }
  EXPECT_TRUE(Evaluate(Request()).status.ok()) << "the service goes on";
}

TEST_F(EvaluateTest, CallersThatGiveUp_MakeRoomForTheNext) {
  const auto cancelled = Start(LongRequest());
  ASSERT_TRUE(cancelled->AwaitWindow());
  const auto late = Start(LongRequest(), std::chrono::milliseconds(200));  // waits behind it
  EXPECT_EQ(late->Finish().code(), absl::StatusCode::kDeadlineExceeded);
  cancelled->context.TryCancel();
  EXPECT_EQ(cancelled->Finish().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Evaluate(Request()).status.ok());
}

TEST_F(EvaluateTest, TooManyAreRefusedWithATimeToRetry) {
  const auto running = Start(LongRequest());
  ASSERT_TRUE(running->AwaitWindow());
  std::vector<absl::Status> statuses(kMaxWaiting + 1);
  std::vector<std::thread> callers;
  for (absl::Status& status : statuses) {
    callers.emplace_back([&] { status = Start(Request(), std::chrono::seconds(2))->Finish(); });
  }
  for (std::thread& caller : callers) caller.join();
  int refused = 0;
  for (const absl::Status& status : statuses) {
    if (absl::IsDeadlineExceeded(status)) continue;  // it waited
    ++refused;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_TRUE(RetryDelay(status).has_value());
  }
  EXPECT_EQ(refused, 1);
}

TEST_F(EvaluateTest, Termination_EndsRunningAndWaitingEvaluations) {
  const auto running = Start(LongRequest());
  ASSERT_TRUE(running->AwaitWindow());
  const auto waiting = Start(Request());
  process_->Signal(SIGTERM);
  EXPECT_EQ(running->Finish().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(waiting->Finish().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(process_->Wait(), 0) << process_->Log();
}

TEST_F(EvaluateTest, ARunningJobMakesTheSameBytesBesideAnEvaluation) {
  const auto running = Start(LongRequest());
  ASSERT_TRUE(running->AwaitWindow());
  const std::string expected = ReadFile(models() / "model/quantloom.json").value();
  v1::QuantizeRequest request;
  request.set_source("tiny");
  request.set_output("beside");
  request.set_recipe("icquant:bits=2");
  request.mutable_calibration()->set_tokens(0);
  grpc::ClientContext context;
  const auto reader = stub_->Quantize(&context, request);
  v1::QuantizeEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(event.job().state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(ReadFile(models() / "beside/quantloom.json").value(), expected);
}

}  // namespace
}  // namespace quantloom
