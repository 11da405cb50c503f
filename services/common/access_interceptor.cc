#include "services/common/access_interceptor.h"

#include <grpc/grpc.h>
#include <grpcpp/generic/async_generic_service.h>

#include <utility>

#include "absl/time/clock.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

// A callback method's context, with room for the decision.
class CallContext final : public grpc::CallbackServerContext {
 public:
  absl::StatusOr<Caller> caller = absl::InternalError("nobody has decided on this call");
};

// Generic contexts are those of calls of unknown methods.
class CallContextAllocator final : public grpc::ContextAllocator {
 public:
  grpc::CallbackServerContext* NewCallbackServerContext() override { return new CallContext; }
  grpc::GenericCallbackServerContext* NewGenericCallbackServerContext() override {
    return new grpc::GenericCallbackServerContext;
  }
  void Release(grpc::CallbackServerContext* context) override { delete context; }
  void Release(grpc::GenericCallbackServerContext* context) override { delete context; }
};

// One call, from its creation to the destruction of its context: so long it counts as running.
class AccessInterceptor final : public grpc::experimental::Interceptor {
 public:
  AccessInterceptor(std::shared_ptr<AccessControl> access, grpc::experimental::ServerRpcInfo* info)
      : access_(std::move(access)), context_(info->server_context()) {
    AccessControl::Admission admission = access_->Admit(info->method(), *context_, absl::Now());
    permit_ = std::move(admission.permit);
    refusal_ = admission.caller.status();
    asks_ = dynamic_cast<CallContext*>(context_);
    if (asks_ != nullptr) asks_->caller = std::move(admission.caller);
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (!refusal_.ok()) {
      if (asks_ == nullptr) {
        Cancel();
      } else if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
        methods->ModifySendStatus(ToGrpcStatus(refusal_));
      }
    }
    methods->Proceed();
  }

 private:
  void Cancel() {
    if (std::exchange(cancelled_, true)) return;
    const std::string message(refusal_.message());
    grpc_call_cancel_with_status(context_->c_call(), static_cast<grpc_status_code>(refusal_.code()),
                                 message.c_str(), nullptr);
  }

  const std::shared_ptr<AccessControl> access_;
  grpc::ServerContextBase* const context_;
  CallContext* asks_ = nullptr;  // context_, of a handler that asks
  ClientLimiter::Permit permit_;
  absl::Status refusal_;  // OK: admitted
  bool cancelled_ = false;
};

class AccessInterceptorFactory final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit AccessInterceptorFactory(std::shared_ptr<AccessControl> access)
      : access_(std::move(access)) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new AccessInterceptor(access_, info);
  }

 private:
  const std::shared_ptr<AccessControl> access_;
};

}  // namespace

void SetCallContexts(grpc::ServerBuilder& builder) {
  builder.SetContextAllocator(std::make_unique<CallContextAllocator>());
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAccessInterceptor(
    std::shared_ptr<AccessControl> access) {
  return std::make_unique<AccessInterceptorFactory>(std::move(access));
}

absl::StatusOr<Caller> CallerOf(const grpc::CallbackServerContext& context) {
  const auto* decided = dynamic_cast<const CallContext*>(&context);
  if (decided == nullptr) return absl::InternalError("nobody has decided on this call");
  return decided->caller;
}

}  // namespace quantloom
