// grpc.health.v1 alone, without TLS and tokens, on a port of its own: Kubernetes' gRPC probes speak
// no TLS.
#pragma once

#include <grpcpp/server.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace quantloom {

// Thread-safe.
class HealthServer {
 public:
  // Serves on `address`, host:port; port 0 picks a free one. INVALID_ARGUMENT for a malformed
  // address, UNAVAILABLE for one that cannot be bound.
  static absl::StatusOr<std::unique_ptr<HealthServer>> Start(const std::string& address);
  ~HealthServer();
  HealthServer(const HealthServer&) = delete;
  HealthServer& operator=(const HealthServer&) = delete;

  int port() const { return port_; }
  void SetServing(const std::string& service_name, bool serving);

 private:
  HealthServer() = default;

  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace quantloom
