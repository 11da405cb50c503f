// Calls of any method, with and without a token.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

namespace quantloom::testing {

// A call of a method whose messages nobody needs to know: `request` and `response` are their bytes.
grpc::Status CallMethod(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                        const std::string& request = "", const std::string& token = "",
                        std::string* response = nullptr);

}  // namespace quantloom::testing
