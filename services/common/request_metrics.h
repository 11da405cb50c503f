// Counts and times every RPC of a server: quantloom_requests_total{method,code} and
// quantloom_request_duration_seconds{method}. Each gets a line in the log when it has ended
// (call_record.h); at level debug where it is not one of the server's own methods.
#pragma once

#include <grpcpp/support/server_interceptor.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace quantloom {

// Shared by the interceptors of all calls. Thread-safe.
class RequestMetrics {
 public:
  // `services`: full names whose methods get their own label value, as "quantloom.v1.Foo/Bar";
  // whatever else a client may call is counted as "other", so that labels stay bounded.
  RequestMetrics(prometheus::Registry& registry, const std::vector<std::string>& services);

  // Counts one finished call; `code` in gRPC's spelling ("OK", "NOT_FOUND").
  void Record(const std::string& method, const char* code, double seconds);
  // The label for a method as gRPC names it, "/quantloom.v1.Foo/Bar".
  std::string MethodLabel(const char* method) const;

  // Calls to `services` that are being handled now.
  int active() const { return active_; }
  void CallStarted() { ++active_; }
  void CallEnded() { --active_; }

 private:
  std::set<std::string> methods_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Histogram>& durations_;
  std::atomic<int> active_{0};
};

// What ServerBuilder's interceptor creators take. Keeps `metrics` alive.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRequestInterceptor(
    std::shared_ptr<RequestMetrics> metrics);

}  // namespace quantloom
