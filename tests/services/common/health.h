// What a service says of itself to health checks.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

namespace quantloom::testing {

// What grpc.health.v1 says of a service's name, "" for the whole server; kUnreachable for any
// error, kUnknown for a name that it does not know.
enum class Health { kUnreachable, kUnknown, kServing, kNotServing };
Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);

}  // namespace quantloom::testing
