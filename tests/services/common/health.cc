#include "tests/services/common/health.h"

#include "absl/strings/str_cat.h"
#include "tests/services/common/call_method.h"

namespace quantloom::testing {

// Health's messages have one field each (service = 1; status = 1, which is 1 for SERVING and 2 for
// NOT_SERVING), so no generated code is needed.
Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string request;
  if (!service.empty()) {
    request = absl::StrCat("\x0A", std::string(1, static_cast<char>(service.size())), service);
  }
  std::string response;
  const grpc::Status status =
      CallMethod(channel, "/grpc.health.v1.Health/Check", request, /*token=*/"", &response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return Health::kUnknown;
  if (response == "\x08\x01") return Health::kServing;
  return response == "\x08\x02" ? Health::kNotServing : Health::kUnreachable;
}

}  // namespace quantloom::testing
