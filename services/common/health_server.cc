#include "services/common/health_server.h"

#include <grpc/grpc.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "services/common/metrics.h"

namespace quantloom {
namespace {

constexpr int kMaxMessageBytes = 4096;

// Cancels everything but health: the reflection service is in every server of the process.
class HealthOnlyInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit HealthOnlyInterceptor(grpc::ServerContextBase* context) : context_(context) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (!cancelled_) {
      cancelled_ = true;
      grpc_call_cancel_with_status(context_->c_call(), GRPC_STATUS_UNIMPLEMENTED,
                                   "only grpc.health.v1.Health is served here", nullptr);
    }
    methods->Proceed();
  }

 private:
  grpc::ServerContextBase* const context_;
  bool cancelled_ = false;
};

class HealthOnlyInterceptorFactory final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    if (absl::StartsWith(info->method(), "/grpc.health.v1.Health/")) return nullptr;
    return new HealthOnlyInterceptor(info->server_context());
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<HealthServer>> HealthServer::Start(const std::string& address) {
  QL_RETURN_IF_ERROR(ParseHostPort(address).status());
  grpc::EnableDefaultHealthCheckService(true);
  std::unique_ptr<HealthServer> health(new HealthServer);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &health->port_);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<HealthOnlyInterceptorFactory>());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  health->server_ = builder.BuildAndStart();
  if (health->server_ == nullptr || health->port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot serve health on '", address, "'"));
  }
  return health;
}

HealthServer::~HealthServer() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

void HealthServer::SetServing(const std::string& service_name, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service_name, serving);
}

}  // namespace quantloom
