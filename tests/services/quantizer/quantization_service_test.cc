// The service over gRPC on loopback, with work whose pace the tests decide.
#include "services/quantizer/quantization_service.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "access_token/access_token.h"
#include "services/common/grpc_server.h"
#include "services/common/rpc_status.h"
#include "services/quantizer/sqlite_job_store.h"
#include "tests/services/common/call_method.h"
#include "tests/services/common/certificate_authority.h"
#include "tests/services/common/http_get.h"
#include "tests/services/common/token_entry.h"
#include "tests/services/quantizer/scripted_work.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kMaxQueuedJobs = 3;
constexpr uint32_t kWindow = 96;  // of an evaluation that leaves it to the engine

class QuantizationServiceTest : public ::testing::Test {
 protected:
  QuantizationServiceTest() {
    fs::create_directories(sources());
    fs::create_directories(models());
    fs::create_directories(directory_.path() / "outside");
    std::ofstream(sources() / "model.gguf") << "model";
    std::ofstream(sources() / "text.txt") << "some text";
    std::ofstream(sources() / "latin1.txt") << "caf\xe9";
    std::ofstream(sources() / "empty.txt");
    fs::create_symlink(directory_.path() / "outside", sources() / "escape");

    store_ = *SqliteJobStore::Open(directory_.path() / "jobs.db");
    store_->SetListener([this](const std::string& job) { signal_.Notify(job); });
    metrics_.Add(std::make_shared<JobGauges>(*store_));
    const ConfinedRoot source_root = *ConfinedRoot::Open(sources());
    runner_ = std::make_unique<JobRunner>(
        JobRunner::Options{
            .max_running = 1, .threads = 1, .progress_interval = absl::ZeroDuration()},
        source_root, publisher_, work_.function(), *store_, quantizer_metrics_);
    evaluator_ = std::make_unique<Evaluator>(Evaluator::Options{.max_running = 1, .threads = 1},
                                             source_root, *ConfinedRoot::Open(models()));
    service_ = std::make_unique<QuantizationServiceImpl>(
        kMaxQueuedJobs, source_root, publisher_,
        [this](QuantizeOptions& options) {
          if (options.evaluation_window_tokens == 0) options.evaluation_window_tokens = kWindow;
          return verdict_;
        },
        *store_, signal_, *runner_, *evaluator_);
  }

  void SetUp() override {
    GrpcServerOptions options;
    options.address = "127.0.0.1:0";
    options.grace_period = absl::Seconds(5);
    auto server = GrpcServer::Start(options, {service_.get()},
                                    {v1::QuantizationService::service_full_name()}, metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    runner_->Start();
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::QuantizationService::NewStub(channel_);
  }

  void TearDown() override {
    Drain();
    runner_->Stop();
  }

  void Drain() {
    if (server_ == nullptr) return;
    server_->Drain({.stop_admitting = [this] { service_->StopAdmitting(); }, .end_streams = {}});
    server_.reset();
  }

  fs::path sources() const { return directory_.path() / "sources"; }
  fs::path models() const { return directory_.path() / "models"; }

  static v1::QuantizeRequest Request(const std::string& output = "model") {
    v1::QuantizeRequest request;
    request.set_source("model.gguf");
    request.set_output(output);
    request.set_recipe("icquant:bits=2,outliers=0.05,inner=kmeans");
    return request;
  }

  // One open Quantize or WatchJob call.
  struct Call {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::QuantizeEvent>> reader;

    // The next event; a default one when the stream has ended.
    v1::QuantizeEvent Next() {
      v1::QuantizeEvent event;
      return reader->Read(&event) ? event : v1::QuantizeEvent();
    }
    std::vector<v1::QuantizeEvent> Rest() {
      std::vector<v1::QuantizeEvent> events;
      v1::QuantizeEvent event;
      while (reader->Read(&event)) events.push_back(event);
      return events;
    }
    absl::Status Finish() { return FromGrpcStatus(reader->Finish()); }
  };

  std::unique_ptr<Call> Quantize(const v1::QuantizeRequest& request) {
    auto call = std::make_unique<Call>();
    call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
    call->reader = stub_->Quantize(&call->context, request);
    return call;
  }
  std::unique_ptr<Call> Watch(const std::string& name, uint64_t from) {
    auto call = std::make_unique<Call>();
    v1::WatchJobRequest request;
    request.set_name(name);
    request.set_from_sequence(from);
    call->reader = stub_->WatchJob(&call->context, request);
    return call;
  }
  absl::Status Refusal(const v1::QuantizeRequest& request) {
    auto call = Quantize(request);
    EXPECT_TRUE(call->Rest().empty());
    return call->Finish();
  }
  // Starts a job and returns it as its first event shows it; the stream is given up.
  v1::Job StartJob(const v1::QuantizeRequest& request) {
    auto call = Quantize(request);
    const v1::Job job = call->Next().job();
    EXPECT_NE(job.name(), "") << (call->context.TryCancel(), call->Finish());
    call->context.TryCancel();
    call->Rest();
    call->reader->Finish();
    return job;
  }

  template <typename Request>
  absl::StatusOr<v1::Job> Unary(grpc::Status (v1::QuantizationService::Stub::*method)(
                                    grpc::ClientContext*, const Request&, v1::Job*),
                                const std::string& name) {
    grpc::ClientContext context;
    Request request;
    request.set_name(name);
    v1::Job job;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &job);
    if (!status.ok()) return FromGrpcStatus(status);
    return job;
  }
  absl::StatusOr<v1::Job> GetJob(const std::string& name) {
    return Unary(&v1::QuantizationService::Stub::GetJob, name);
  }
  absl::StatusOr<v1::Job> CancelJob(const std::string& name) {
    return Unary(&v1::QuantizationService::Stub::CancelJob, name);
  }
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) {
    grpc::ClientContext context;
    v1::ListJobsResponse response;
    const grpc::Status status = stub_->ListJobs(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }

  // Sends bytes as a request, and returns how the call ends.
  absl::Status CallWithBytes(const std::string& method, const std::string& bytes) {
    grpc::GenericStub generic(channel_);
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::Status status;
    auto call = generic.PrepareUnaryCall(&context, "/quantloom.v1.QuantizationService/" + method,
                                         request, &queue);
    call->StartCall();
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return FromGrpcStatus(status);
  }

  testing::TemporaryDirectory directory_;
  Publisher publisher_{fs::canonical(directory_.path()) / "models"};
  Metrics metrics_{"quantloom-quantizer"};
  QuantizerMetrics quantizer_metrics_{metrics_.registry()};
  ScriptedWork work_;
  absl::Status verdict_;  // of the engine on every request
  EventSignal signal_;
  std::unique_ptr<SqliteJobStore> store_;
  std::unique_ptr<JobRunner> runner_;
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<QuantizationServiceImpl> service_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
};

TEST_F(QuantizationServiceTest, Quantize_StreamsTheJobsLifeFromQueuedToSucceeded) {
  auto call = Quantize(Request());
  work_.AllowAll();
  const auto events = call->Rest();
  EXPECT_TRUE(call->Finish().ok());
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events[0].job().state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(events[0].sequence(), 1u);
  EXPECT_EQ(events[1].job().state(), v1::JOB_STATE_RUNNING);
  for (size_t i = 1; i < events.size(); ++i) {
    EXPECT_EQ(events[i].sequence(), events[i - 1].sequence() + 1);
  }
  const v1::Job job = events.back().job();
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.last_sequence(), events.back().sequence());
  EXPECT_EQ(job.result().path(), (fs::canonical(models()) / "model").string());
  EXPECT_TRUE(fs::exists(models() / "model/quantloom.json"));
  EXPECT_EQ(GetJob(job.name())->DebugString(), job.DebugString());
}

TEST_F(QuantizationServiceTest, Quantize_EchoesTheRequestWithDefaultsAndCanonicalRecipes) {
  v1::QuantizeRequest request = Request();
  request.mutable_evaluation()->set_inline_text("a text of the client's");
  v1::TensorOverride& entry = *request.add_overrides();
  entry.set_pattern("*.down_proj.weight");
  entry.set_recipe("icquant:outliers=0.05,bits=3");
  const v1::Job job = StartJob(request);
  EXPECT_THAT(job.name(), ::testing::MatchesRegex("job-[0-9a-f]{12}"));
  EXPECT_FALSE(job.request_id().empty());
  EXPECT_EQ(job.request().request_id(), job.request_id());
  EXPECT_EQ(job.request().source(), "model.gguf");
  EXPECT_EQ(job.request().recipe(), (*CreateCodec(request.recipe()))->recipe());
  EXPECT_EQ(job.request().embedding_recipe(),
            (*CreateCodec("icquant:bits=8,inner=rtn,outliers=0"))->recipe());
  EXPECT_EQ(job.request().overrides(0).recipe(), (*CreateCodec(entry.recipe()))->recipe());
  EXPECT_EQ(job.request().calibration().tokens(), 8192u);
  EXPECT_TRUE(job.request().evaluation().has_inline_text());
  EXPECT_EQ(job.request().evaluation().inline_text(), "") << "texts are left out";
  EXPECT_EQ(job.request().evaluation().window_tokens(), kWindow);
  work_.AllowAll();
  Watch(job.name(), 1)->Rest();
  EXPECT_EQ(work_.options().at(0).evaluation_text, "a text of the client's");
  EXPECT_EQ(work_.options().at(0).evaluation_window_tokens, kWindow);
}

TEST_F(QuantizationServiceTest, Quantize_WithTheSameIdAttachesToTheSameJob) {
  v1::QuantizeRequest request = Request();
  request.set_request_id("my-request.1");
  auto first = Quantize(request);
  const std::string name = first->Next().job().name();
  auto second = Quantize(request);
  EXPECT_EQ(second->Next().job().name(), name);
  work_.AllowAll();
  const auto first_events = first->Rest();
  const auto second_events = second->Rest();
  EXPECT_EQ(first_events.size(), second_events.size());
  EXPECT_EQ(work_.runs(), 1);

  // Attaching works when the job has ended, its output exists and its source is gone.
  fs::remove(sources() / "model.gguf");
  auto third = Quantize(request);
  const auto events = third->Rest();
  EXPECT_TRUE(third->Finish().ok());
  EXPECT_EQ(events.size(), first_events.size() + 1);
  EXPECT_EQ(events.back().job().state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(work_.runs(), 1);
}

TEST_F(QuantizationServiceTest, Quantize_RefusesAKnownIdWithOtherParameters) {
  v1::QuantizeRequest request = Request();
  request.set_request_id("mine");
  StartJob(request);
  request.set_seed(1);
  const absl::Status status = Refusal(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ViolatedField(status), "request_id");
}

TEST_F(QuantizationServiceTest, Quantize_FromManyClientsWithOneIdMakesOneJob) {
  v1::QuantizeRequest request = Request();
  request.set_request_id("mine");
  std::vector<std::string> names(8);
  std::vector<std::thread> clients;
  for (std::string& name : names) {
    clients.emplace_back([&] { name = StartJob(request).name(); });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_THAT(names, ::testing::Each(names[0]));
  work_.AllowAll();
  Watch(names[0], 1)->Rest();
  EXPECT_EQ(work_.runs(), 1);
}

TEST_F(QuantizationServiceTest, Quantize_RefusesAnOutputThatExistsOrIsBeingWritten) {
  fs::create_directory(models() / "taken");
  fs::create_symlink("nowhere", models() / "link");
  const v1::Job job = StartJob(Request("busy"));
  for (const char* output : {"taken", "link", "busy"}) {
    const absl::Status status = Refusal(Request(output));
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << output;
    EXPECT_EQ(ViolatedField(status), "output");
  }
  EXPECT_THAT(std::string(Refusal(Request("busy")).message()), HasSubstr(job.name()));
}

TEST_F(QuantizationServiceTest, Quantize_RefusesWhatTheQueueHasNoRoomForAndSaysWhenToRetry) {
  StartJob(Request("running"));
  while (work_.runs() == 0) absl::SleepFor(absl::Milliseconds(1));
  for (int i = 0; i < kMaxQueuedJobs; ++i) StartJob(Request(absl::StrCat("queued-", i)));
  const absl::Status status = Refusal(Request("more"));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(RetryDelay(status).has_value());
  EXPECT_GT(*RetryDelay(status), absl::ZeroDuration());
}

TEST_F(QuantizationServiceTest, Quantize_OutlivesItsClient) {
  v1::Job job;
  {
    auto call = Quantize(Request());
    job = call->Next().job();
    call->context.TryCancel();
  }
  work_.AllowAll();
  const auto events = Watch(job.name(), 1)->Rest();
  EXPECT_EQ(events.back().job().state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QuantizationServiceTest, Quantize_DeadlineEndsTheStreamOnly) {
  Call call;
  call.context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  call.reader = stub_->Quantize(&call.context, Request());
  const v1::Job job = call.Next().job();
  call.Rest();
  EXPECT_EQ(call.Finish().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(IsFinal(GetJob(job.name())->state()));
}

struct BadRequest {
  const char* name;
  void (*change)(v1::QuantizeRequest&);
  absl::StatusCode code;
  const char* field;
};

class BadRequestTest : public QuantizationServiceTest,
                       public ::testing::WithParamInterface<BadRequest> {};

TEST_P(BadRequestTest, Quantize_RefusesAndNamesTheField) {
  v1::QuantizeRequest request = Request();
  GetParam().change(request);
  const absl::Status status = Refusal(request);
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_EQ(ViolatedField(status), GetParam().field) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat(GetParam().field, ": ")));
  EXPECT_TRUE(ListJobs({})->jobs().empty());
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kDenied = absl::StatusCode::kPermissionDenied;
constexpr absl::StatusCode kMissing = absl::StatusCode::kNotFound;

const BadRequest kBadRequests[] = {
    {"RequestIdCharacters", [](auto& r) { r.set_request_id("a b"); }, kInvalid, "request_id"},
    {"RequestIdLength", [](auto& r) { r.set_request_id(std::string(129, 'a')); }, kInvalid,
     "request_id"},
    {"NoSource", [](auto& r) { r.clear_source(); }, kInvalid, "source"},
    {"MissingSource", [](auto& r) { r.set_source("nothing.gguf"); }, kMissing, "source"},
    {"EscapingSource", [](auto& r) { r.set_source("../outside"); }, kDenied, "source"},
    {"AbsoluteSource", [](auto& r) { r.set_source("/etc/passwd"); }, kDenied, "source"},
    {"SymlinkedSource", [](auto& r) { r.set_source("escape"); }, kDenied, "source"},
    {"NulInSource", [](auto& r) { r.set_source(std::string("a\0b", 3)); }, kInvalid, "source"},
    {"LongSource", [](auto& r) { r.set_source(std::string(5000, 'a')); }, kInvalid, "source"},
    {"NoOutput", [](auto& r) { r.clear_output(); }, kInvalid, "output"},
    {"OutputWithSlash", [](auto& r) { r.set_output("a/b"); }, kInvalid, "output"},
    {"OutputDots", [](auto& r) { r.set_output(".."); }, kInvalid, "output"},
    {"HiddenOutput", [](auto& r) { r.set_output(".staging-job-1"); }, kInvalid, "output"},
    {"LongOutput", [](auto& r) { r.set_output(std::string(129, 'a')); }, kInvalid, "output"},
    {"NoRecipe", [](auto& r) { r.clear_recipe(); }, kInvalid, "recipe"},
    {"UnknownCodec", [](auto& r) { r.set_recipe("zip:bits=2"); }, kInvalid, "recipe"},
    {"UnknownKey", [](auto& r) { r.set_recipe("icquant:bits=2,colour=red"); }, kInvalid, "recipe"},
    {"BitsOutOfRange", [](auto& r) { r.set_recipe("icquant:bits=9"); }, kInvalid, "recipe"},
    {"OutliersOutOfRange", [](auto& r) { r.set_recipe("icquant:bits=2,outliers=0.9"); }, kInvalid,
     "recipe"},
    {"OutliersNan", [](auto& r) { r.set_recipe("icquant:bits=2,outliers=nan"); }, kInvalid,
     "recipe"},
    {"HugeRecipe", [](auto& r) { r.set_recipe(std::string(1 << 20, 'r')); }, kInvalid, "recipe"},
    {"BadEmbeddingRecipe", [](auto& r) { r.set_embedding_recipe("icquant:bits"); }, kInvalid,
     "embedding_recipe"},
    {"NoPattern", [](auto& r) { r.add_overrides()->set_recipe("icquant:bits=3"); }, kInvalid,
     "overrides[0].pattern"},
    {"BadOverride",
     [](auto& r) {
       r.add_overrides()->set_pattern("a");
       r.mutable_overrides(0)->set_recipe("icquant:bits=3");
       r.add_overrides()->set_pattern("b");
     },
     kInvalid, "overrides[1].recipe"},
    {"TooManyOverrides",
     [](auto& r) {
       for (int i = 0; i < 257; ++i) {
         r.add_overrides()->set_pattern("a");
         r.mutable_overrides(i)->set_recipe("icquant:bits=3");
       }
     },
     kInvalid, "overrides"},
    {"CalibrationTokens", [](auto& r) { r.mutable_calibration()->set_tokens((1 << 20) + 1); },
     kInvalid, "calibration.tokens"},
    {"CalibrationActivations",
     [](auto& r) {
       r.mutable_calibration()->set_activations(static_cast<v1::Calibration::Activations>(7));
     },
     kInvalid, "calibration.activations"},
    {"CalibrationPath", [](auto& r) { r.mutable_calibration()->set_path("nothing.txt"); }, kMissing,
     "calibration.path"},
    {"CalibrationOutside", [](auto& r) { r.mutable_calibration()->set_path("../outside"); },
     kDenied, "calibration.path"},
    {"CalibrationDirectory", [](auto& r) { r.mutable_calibration()->set_path("."); }, kInvalid,
     "calibration.path"},
    {"CalibrationNotUtf8", [](auto& r) { r.mutable_calibration()->set_path("latin1.txt"); },
     kInvalid, "calibration.path"},
    {"CalibrationEmptyFile", [](auto& r) { r.mutable_calibration()->set_path("empty.txt"); },
     kInvalid, "calibration.path"},
    {"CalibrationEmptyText", [](auto& r) { r.mutable_calibration()->set_inline_text(""); },
     kInvalid, "calibration.inline_text"},
    {"CalibrationLongText",
     [](auto& r) { r.mutable_calibration()->set_inline_text(std::string((2 << 20) + 1, 'a')); },
     kInvalid, "calibration.inline_text"},
    {"EvaluationWithoutText", [](auto& r) { r.mutable_evaluation(); }, kInvalid, "evaluation.text"},
    {"EvaluationPath", [](auto& r) { r.mutable_evaluation()->set_path("nothing.txt"); }, kMissing,
     "evaluation.path"},
    {"EvaluationLongText",
     [](auto& r) { r.mutable_evaluation()->set_inline_text(std::string((2 << 20) + 1, 'a')); },
     kInvalid, "evaluation.inline_text"},
    {"EvaluationWindow",
     [](auto& r) {
       r.mutable_evaluation()->set_path("text.txt");
       r.mutable_evaluation()->set_window_tokens(15);
     },
     kInvalid, "evaluation.window_tokens"},
};

INSTANTIATE_TEST_SUITE_P(All, BadRequestTest, ::testing::ValuesIn(kBadRequests),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(QuantizationServiceTest, Quantize_NamesTheFieldOfWhatTheEngineRefuses) {
  verdict_ = absl::InvalidArgumentError("source: architecture 'GPT2LMHeadModel' is not supported");
  absl::Status status = Refusal(Request());
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_EQ(ViolatedField(status), "source");
  EXPECT_EQ(status.message(), verdict_.message());
  verdict_ = absl::InvalidArgumentError("overrides[3]: matches no matrix");
  EXPECT_EQ(ViolatedField(Refusal(Request())), "overrides[3]");
  verdict_ = absl::InvalidArgumentError("evaluation.window_tokens: 9000 is outside 16 .. 8192");
  EXPECT_EQ(ViolatedField(Refusal(Request())), "evaluation.window_tokens");
  verdict_ = absl::InvalidArgumentError("'m.gguf': tensor count: 9 is wrong");
  status = Refusal(Request());
  EXPECT_EQ(ViolatedField(status), "source");
  EXPECT_EQ(status.message(), "source: 'm.gguf': tensor count: 9 is wrong");
}

TEST_F(QuantizationServiceTest, Quantize_RefusesAnUnreadableSource) {
  fs::permissions(sources() / "model.gguf", fs::perms::none);
  fs::permissions(directory_.path(), fs::perms::all);
  const bool root = geteuid() == 0;
  ASSERT_EQ(root ? seteuid(65534) : 0, 0);
  const absl::Status status = Refusal(Request());
  ASSERT_EQ(root ? seteuid(0) : 0, 0);
  EXPECT_EQ(status.code(), kDenied) << status;
  EXPECT_EQ(ViolatedField(status), "source");
}

TEST_F(QuantizationServiceTest, Requests_ThatAreNoMessagesAreInvalid) {
  for (const char* method :
       {"Quantize", "GetJob", "ListJobs", "WatchJob", "CancelJob", "Evaluate"}) {
    EXPECT_EQ(CallWithBytes(method, "\x0a\xff").code(), kInvalid) << method;
  }
  // Field 2, source: one byte that is not UTF-8.
  const absl::Status status = CallWithBytes("Quantize", "\x12\x01\xff");
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_EQ(ViolatedField(status), "source");
  // Field 3, evaluation; its field 2, inline_text.
  const absl::Status nested = CallWithBytes("Evaluate", "\x1a\x03\x12\x01\xff");
  EXPECT_EQ(nested.code(), kInvalid);
  EXPECT_EQ(ViolatedField(nested), "evaluation.inline_text");
}

TEST_F(QuantizationServiceTest, WatchJob_StartsAtASequenceAndMissesNothing) {
  const v1::Job job = StartJob(Request());
  work_.Allow(2);
  work_.WaitForEncoded(2);
  auto call = Watch(job.name(), 2);
  std::vector<v1::QuantizeEvent> events = {call->Next()};
  EXPECT_EQ(events[0].sequence(), 2u);
  work_.AllowAll();
  for (const auto& event : call->Rest()) events.push_back(event);
  EXPECT_TRUE(call->Finish().ok());
  for (size_t i = 1; i < events.size(); ++i) {
    EXPECT_EQ(events[i].sequence(), events[i - 1].sequence() + 1);
  }
  EXPECT_EQ(events.back().job().state(), v1::JOB_STATE_SUCCEEDED);

  const uint64_t last = events.back().sequence();
  EXPECT_EQ(Watch(job.name(), last)->Rest().size(), 1u);
  auto past = Watch(job.name(), last + 1);
  EXPECT_TRUE(past->Rest().empty());
  EXPECT_TRUE(past->Finish().ok());
  EXPECT_EQ(Watch(job.name(), 0)->Rest().size(), last);
}

TEST_F(QuantizationServiceTest, WatchJob_PastTheNewestWaitsForIt) {
  const v1::Job job = StartJob(Request());
  while (work_.runs() == 0) absl::SleepFor(absl::Milliseconds(1));
  const uint64_t newest = GetJob(job.name())->last_sequence();
  auto call = Watch(job.name(), newest + 3);
  work_.AllowAll();
  EXPECT_EQ(call->Next().sequence(), newest + 3);
}

TEST_F(QuantizationServiceTest, WatchJob_RefusesUnknownJobs) {
  auto call = Watch("job-unknown", 1);
  EXPECT_TRUE(call->Rest().empty());
  EXPECT_EQ(call->Finish().code(), kMissing);
  auto nameless = Watch("", 1);
  EXPECT_TRUE(nameless->Rest().empty());
  EXPECT_EQ(ViolatedField(nameless->Finish()), "name");
}

TEST_F(QuantizationServiceTest, WatchJob_ThatIsNotReadHoldsNothingUp) {
  // A client that reads nothing: its flow-control window fills with large events.
  v1::QuantizeRequest request = Request();
  for (int i = 0; i < 256; ++i) {
    request.add_overrides()->set_pattern(std::string(1000, '*'));
    request.mutable_overrides(i)->set_recipe("icquant:bits=3");
  }
  const v1::Job job = StartJob(request);
  auto stuck = Watch(job.name(), 1);
  work_.Allow(1);
  work_.WaitForEncoded(1);
  for (int i = 0; i < 100; ++i) {
    v1::JobProgress progress;
    progress.set_weights_done(i);
    ASSERT_TRUE(store_->AppendProgress(job.name(), progress).ok());
  }
  work_.AllowAll();
  const auto events = Watch(job.name(), 1)->Rest();
  EXPECT_EQ(events.back().job().state(), v1::JOB_STATE_SUCCEEDED);
  // It reads what there is when it wakes up.
  const auto late = stuck->Rest();
  EXPECT_EQ(late.size(), events.size());
  EXPECT_TRUE(stuck->Finish().ok());
}

TEST_F(QuantizationServiceTest, CancelJob_EndsQueuedAndRunningJobs) {
  const v1::Job running = StartJob(Request("running"));
  work_.Allow(1);
  work_.WaitForEncoded(1);
  const v1::Job queued = StartJob(Request("queued"));
  EXPECT_EQ(CancelJob(queued.name())->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(IsFinal(CancelJob(running.name())->state()));
  const auto events = Watch(running.name(), 1)->Rest();
  EXPECT_EQ(events.back().job().state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(fs::is_empty(models()));
  EXPECT_EQ(CancelJob(running.name())->state(), v1::JOB_STATE_CANCELLED) << "again changes nothing";
  EXPECT_EQ(CancelJob("job-unknown").status().code(), kMissing);
  EXPECT_EQ(ViolatedField(CancelJob("").status()), "name");

  work_.AllowAll();
  auto again = Quantize(Request("running"));
  EXPECT_EQ(again->Rest().back().job().state(), v1::JOB_STATE_SUCCEEDED)
      << "the output of a cancelled job is free";
}

TEST_F(QuantizationServiceTest, GetJob_RefusesUnknownJobs) {
  EXPECT_EQ(GetJob("job-unknown").status().code(), kMissing);
  EXPECT_EQ(ViolatedField(GetJob("").status()), "name");
}

TEST_F(QuantizationServiceTest, ListJobs_PagesAndFilters) {
  const v1::Job first = StartJob(Request("first"));
  while (work_.runs() == 0) absl::SleepFor(absl::Milliseconds(1));
  const v1::Job second = StartJob(Request("second"));
  const v1::Job third = StartJob(Request("third"));
  v1::ListJobsRequest request;
  request.set_page_size(2);
  const auto page = ListJobs(request);
  ASSERT_TRUE(page.ok()) << page.status();
  ASSERT_EQ(page->jobs_size(), 2);
  EXPECT_EQ(page->jobs(0).name(), third.name());
  EXPECT_EQ(page->jobs(1).name(), second.name());
  request.set_page_token(page->next_page_token());
  const auto rest = ListJobs(request);
  ASSERT_EQ(rest->jobs_size(), 1);
  EXPECT_EQ(rest->jobs(0).name(), first.name());
  EXPECT_EQ(rest->next_page_token(), "");

  v1::ListJobsRequest filtered;
  filtered.add_states(v1::JOB_STATE_RUNNING);
  ASSERT_EQ(ListJobs(filtered)->jobs_size(), 1);
  EXPECT_EQ(ListJobs(filtered)->jobs(0).name(), first.name());
}

TEST_F(QuantizationServiceTest, ListJobs_RefusesBadPagesAndStates) {
  v1::ListJobsRequest request;
  for (const int size : {-1, 1001}) {
    request.set_page_size(size);
    EXPECT_EQ(ViolatedField(ListJobs(request).status()), "page_size");
  }
  request.set_page_size(1000);
  EXPECT_TRUE(ListJobs(request).ok());
  request.set_page_token("made up");
  EXPECT_EQ(ListJobs(request).status().code(), kInvalid);
  EXPECT_EQ(ViolatedField(ListJobs(request).status()), "page_token");
  request.clear_page_token();
  request.add_states(v1::JOB_STATE_QUEUED);
  for (const int state : {0, 99}) {
    request.add_states(static_cast<v1::JobState>(state));
    EXPECT_EQ(ViolatedField(ListJobs(request).status()), "states[1]");
    request.mutable_states()->RemoveLast();
  }
}

TEST_F(QuantizationServiceTest, Drain_EndsStreamsWithUnavailableAndTheJobStaysToBeResumed) {
  auto call = Quantize(Request());
  const v1::Job job = call->Next().job();
  work_.Allow(1);
  work_.WaitForEncoded(1);
  std::thread drain([this] {
    runner_->RequestStop();
    Drain();
  });
  call->Rest();
  EXPECT_EQ(call->Finish().code(), absl::StatusCode::kUnavailable);
  drain.join();
  runner_->Stop();
  EXPECT_EQ(store_->Get(job.name())->state(), v1::JOB_STATE_RUNNING);
}

TEST_F(QuantizationServiceTest, StopAdmitting_RefusesEveryCall) {
  service_->StopAdmitting();
  EXPECT_EQ(Refusal(Request()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetJob("job-1").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CancelJob("job-1").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ListJobs({}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CallWithBytes("Evaluate", "").code(), absl::StatusCode::kUnavailable);
  auto call = Watch("job-1", 1);
  EXPECT_TRUE(call->Rest().empty());
  EXPECT_EQ(call->Finish().code(), absl::StatusCode::kUnavailable);
}

TEST_F(QuantizationServiceTest, Access_NoMethodAnswersWithoutATokenOfTheRole) {
  Drain();
  runner_->Stop();
  const std::string generate = *NewToken("alice");
  const std::string quantize = *NewToken("bob");
  testing::ReplaceFile(directory_.path() / "tokens",
                       testing::TokenLine(generate, {"generate", "admin"}) +
                           testing::TokenLine(quantize, {"quantize"}));
  GrpcServerOptions options;
  options.access.token_file = (directory_.path() / "tokens").string();
  Metrics metrics("quantloom-test");
  options.address = "127.0.0.1:0";
  const auto server = GrpcServer::Start(options, {service_.get()},
                                        {v1::QuantizationService::service_full_name()}, metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", (*server)->port()),
                                           grpc::InsecureChannelCredentials());
  const google::protobuf::ServiceDescriptor& service = *v1::Job::descriptor()->file()->service(0);
  ASSERT_GE(service.method_count(), 6);
  for (int m = 0; m < service.method_count(); ++m) {
    const std::string method =
        absl::StrCat("/", service.full_name(), "/", service.method(m)->name());
    const auto code = [&](const std::string& token) {
      return testing::CallMethod(channel, method, "", token).error_code();
    };
    EXPECT_EQ(code(""), grpc::StatusCode::UNAUTHENTICATED) << method;
    EXPECT_EQ(code(generate), grpc::StatusCode::PERMISSION_DENIED) << method;
    const grpc::StatusCode allowed = code(quantize);
    EXPECT_NE(allowed, grpc::StatusCode::UNAUTHENTICATED) << method;
    EXPECT_NE(allowed, grpc::StatusCode::PERMISSION_DENIED) << method;
  }
  (*server)->Drain({});
}

TEST_F(QuantizationServiceTest, Clients_ThatComeAndGoLeaveNothingBehind) {
  const v1::Job job = StartJob(Request());
  std::vector<std::thread> clients;
  for (int t = 0; t < 8; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        auto call = Watch(job.name(), 1);
        if (t % 2 == 0) call->Next();
        call->context.TryCancel();
        call->Rest();
        call->reader->Finish();
      }
    });
  }
  work_.Allow(2);
  for (std::thread& client : clients) client.join();
  work_.AllowAll();
  EXPECT_EQ(Watch(job.name(), 1)->Rest().back().job().state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QuantizationServiceTest, Metrics_AreScrapedOverHttp) {
  work_.AllowAll();
  Quantize(Request())->Rest();
  ASSERT_TRUE(metrics_.Serve("127.0.0.1:0").ok());
  const std::string text = HttpGetUntil(metrics_.port(), "/metrics", "quantloom_requests_total{");
  for (const char* line :
       {"quantloom_jobs{state=\"succeeded\"} 1", "quantloom_job_queue_age_seconds 0",
        "quantloom_weights_quantized_total{codec=\"icquant\"} 400", "quantloom_job_resumes_total 0",
        "quantloom_job_duration_seconds_count{state=\"succeeded\"} 1",
        "quantloom_requests_total{code=\"OK\",method=\"quantloom.v1.QuantizationService/"
        "Quantize\"}"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace quantloom
