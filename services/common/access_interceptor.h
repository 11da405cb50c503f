// Every call of a server on its way past AccessControl.
//
// The decision is made before the method's handler runs, and the handler asks for it with CallerOf:
// a refused call it ends with the error, details included. A method that is no callback one, such
// as reflection's, is not asked: its refused calls are cancelled with the error's code and message.
// Should a handler forget to ask, its answer is replaced by the error.
#pragma once

#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "absl/status/statusor.h"
#include "services/common/access_control.h"

namespace quantloom {

// Makes CallerOf work for the calls of the server that is built. Call once; SetInterceptorCreators
// takes the other part, MakeAccessInterceptor.
void SetCallContexts(grpc::ServerBuilder& builder);

// Keeps `access` alive.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAccessInterceptor(
    std::shared_ptr<AccessControl> access);

// Who makes this call, or the error to end it with. INTERNAL for a call that has not come past
// MakeAccessInterceptor's interceptor.
absl::StatusOr<Caller> CallerOf(const grpc::CallbackServerContext& context);

}  // namespace quantloom
