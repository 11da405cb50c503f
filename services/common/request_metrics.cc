#include "services/common/request_metrics.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/server_context.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/call_deadline.h"
#include "services/common/call_record.h"

namespace quantloom {
namespace {

constexpr char kOtherMethod[] = "other";

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

// One call, from its creation to the destruction of its context.
class RequestInterceptor final : public grpc::experimental::Interceptor {
 public:
  RequestInterceptor(std::shared_ptr<RequestMetrics> metrics,
                     grpc::experimental::ServerRpcInfo* info)
      : metrics_(std::move(metrics)),
        method_(metrics_->MethodLabel(info->method())),
        context_(info->server_context()),
        start_(std::chrono::steady_clock::now()) {
    if (method_ != kOtherMethod) metrics_->CallStarted();
  }

  ~RequestInterceptor() override {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    metrics_->Record(method_, CodeName(code_), elapsed.count());
    if (record_ != nullptr) {
      CallRecord::Close(*context_);
      record_->Log(method_ == kOtherMethod ? LogLevel::kDebug : LogLevel::kInfo, method_,
                   CodeName(code_), elapsed.count());
    }
    if (method_ != kOtherMethod) metrics_->CallEnded();
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      record_ = CallRecord::Open(*context_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
      // A handler sees an expired deadline as a cancellation.
      if (code_ == grpc::StatusCode::CANCELLED && GivenUpForDeadline(CallDeadline(*context_))) {
        code_ = grpc::StatusCode::DEADLINE_EXCEEDED;
      }
    }
    methods->Proceed();
  }

 private:
  const std::shared_ptr<RequestMetrics> metrics_;
  const std::string method_;
  grpc::ServerContextBase* const context_;
  std::shared_ptr<CallRecord> record_;  // once the metadata has been received
  const std::chrono::steady_clock::time_point start_;
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;  // unless a status is sent
};

class RequestInterceptorFactory final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit RequestInterceptorFactory(std::shared_ptr<RequestMetrics> metrics)
      : metrics_(std::move(metrics)) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new RequestInterceptor(metrics_, info);
  }

 private:
  const std::shared_ptr<RequestMetrics> metrics_;
};

}  // namespace

RequestMetrics::RequestMetrics(prometheus::Registry& registry,
                               const std::vector<std::string>& services)
    : requests_(prometheus::BuildCounter()
                    .Name("quantloom_requests_total")
                    .Help("RPCs that have ended, by method and gRPC status code")
                    .Register(registry)),
      durations_(prometheus::BuildHistogram()
                     .Name("quantloom_request_duration_seconds")
                     .Help("From an RPC's arrival to its end, streams included")
                     .Register(registry)) {
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  for (const std::string& name : services) {
    const google::protobuf::ServiceDescriptor* service = pool->FindServiceByName(name);
    if (service == nullptr) continue;
    for (int i = 0; i < service->method_count(); ++i) {
      methods_.insert(absl::StrCat(name, "/", service->method(i)->name()));
    }
  }
}

std::string RequestMetrics::MethodLabel(const char* method) const {
  if (*method == '/') ++method;
  return methods_.count(method) > 0 ? method : kOtherMethod;
}

void RequestMetrics::Record(const std::string& method, const char* code, double seconds) {
  static const prometheus::Histogram::BucketBoundaries kBuckets = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800};
  requests_.Add({{"method", method}, {"code", code}}).Increment();
  durations_.Add({{"method", method}}, kBuckets).Observe(seconds);
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRequestInterceptor(
    std::shared_ptr<RequestMetrics> metrics) {
  return std::make_unique<RequestInterceptorFactory>(std::move(metrics));
}

}  // namespace quantloom
