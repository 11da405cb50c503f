// The process's Prometheus metrics and the HTTP endpoint they are scraped from.
#pragma once

#include <prometheus/exposer.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom {

// A registry with quantloom_build_info and the process_* metrics of the Prometheus conventions
// (resident memory, CPU time, open file descriptors, start time), read at each scrape.
// Thread-safe.
class Metrics {
 public:
  explicit Metrics(absl::string_view program);
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // Families and metrics made here live as long as this object.
  prometheus::Registry& registry() { return *registry_; }
  // Adds metrics that are computed at each scrape. Call before Serve.
  void Add(std::shared_ptr<prometheus::Collectable> collectable);

  // Serves GET /metrics on `address`, "host:port"; port 0 picks a free one. INVALID_ARGUMENT for a
  // malformed address, UNAVAILABLE when it cannot be bound.
  absl::Status Serve(const std::string& address);
  // The port served; 0 before Serve.
  int port() const { return port_; }

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::vector<std::shared_ptr<prometheus::Collectable>> collectables_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

// "host:port" with a numeric port, the host possibly in brackets. INVALID_ARGUMENT otherwise.
struct HostPort {
  std::string host;
  int port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(absl::string_view address);

}  // namespace quantloom
