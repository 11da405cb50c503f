// The life of a gRPC server: options, TLS, who may call, health, reflection, request metrics,
// graceful shutdown.
//
//   BlockTerminationSignals();
//   ... parse the configuration ...
//   Metrics metrics("quantloom-quantizer");
//   QL_ASSIGN_OR_RETURN(auto server, GrpcServer::Start(options, {&service}, metrics));
//   ... load, warm up ...
//   server->SetServing(true);
//   WaitForTerminationSignal([&] { server->Reload(read_settings()); });
//   server->Drain({.stop_admitting = ..., .end_streams = ...});
#pragma once

#include <grpcpp/server.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/common/access_control.h"
#include "services/common/certificate_files.h"
#include "services/common/configuration.h"
#include "services/common/health_server.h"
#include "services/common/metrics.h"
#include "services/common/reload.h"
#include "services/common/request_metrics.h"
#include "services/common/tls_credentials.h"

namespace quantloom {

struct GrpcServerOptions {
  std::string address;            // host:port; port 0 picks a free one
  std::string metrics_address;    // the same, for HTTP; empty: no metrics endpoint
  std::string port_file;          // gets the port bound for gRPC, in decimal; empty: none
  std::string metrics_port_file;  // the same for metrics
  std::string health_address;     // host:port of a port for health alone; empty: none
  std::string health_port_file;   // the same for it
  TlsOptions tls;                 // of the gRPC port alone
  AccessOptions access;
  absl::Duration credential_refresh_interval = absl::Minutes(1);  // 0: on Reload alone
  int max_message_bytes = 16 << 20;
  absl::Duration keepalive_interval = absl::Seconds(60);
  absl::Duration keepalive_timeout = absl::Seconds(20);
  absl::Duration max_connection_age;  // 0: unlimited
  absl::Duration max_connection_age_grace = absl::Minutes(10);
  absl::Duration grace_period = absl::Seconds(30);

  // Declares the settings, with `address` and `metrics_address` as they are for defaults.
  void AddTo(Configuration& configuration);
};

// Thread-safe, except that Drain is called once.
class GrpcServer {
 public:
  // What a service does while it is drained; both may be called from any thread.
  struct DrainHooks {
    // Called first: answer new calls with UNAVAILABLE, and begin to end what need not finish.
    std::function<void()> stop_admitting;
    // Called when the grace period is over and calls are still active: end them with UNAVAILABLE.
    std::function<void()> end_streams;
  };

  // Binds the address, starts to serve `services`, which must outlive this object and ask CallerOf
  // (access_interceptor.h) before they answer, and binds the metrics endpoint and the health port,
  // which need neither certificates nor tokens. The health service (grpc.health.v1) knows each
  // service by its full name, and the whole server as ""; all are NOT_SERVING until SetServing. The
  // port files appear when all ports are bound, each complete or not at all, and the log says the
  // same. UNAVAILABLE when an address cannot be bound; an error naming setting and file when
  // certificates or tokens cannot be used.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const std::vector<grpc::Service*>& services,
      const std::vector<std::string>& service_names, Metrics& metrics);
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // The port bound.
  int port() const { return port_; }
  // Health of the whole server and of all its services.
  void SetServing(bool serving);
  // Health of one service.
  void SetServing(const std::string& service_name, bool serving);

  // Reads certificates and tokens again, and takes the limits per client of `options`. What cannot
  // be read is logged and counted, and what it was to replace stays in effect.
  void Reload(const absl::StatusOr<GrpcServerOptions>& options);

  // Ends the server: NOT_SERVING; hooks.stop_admitting; waits for active calls up to the grace
  // period; hooks.end_streams; a second later whatever is left is cancelled and the port closed.
  void Drain(const DrainHooks& hooks);

 private:
  explicit GrpcServer(Metrics& metrics) : reload_log_(metrics.registry()) {}
  absl::Status LoadCredentials(const GrpcServerOptions& options, Metrics& metrics);
  absl::Status Bind(const GrpcServerOptions& options, const std::vector<grpc::Service*>& services);
  bool WaitUntilIdle(absl::Duration limit) const;

  std::vector<std::string> service_names_;
  std::shared_ptr<RequestMetrics> request_metrics_;
  ReloadLog reload_log_;
  std::shared_ptr<TlsCredentials> credentials_;  // null without TLS
  std::shared_ptr<AccessControl> access_;
  std::unique_ptr<CredentialReload> credential_reload_;
  std::unique_ptr<HealthServer> health_;  // null without a port of its own
  std::unique_ptr<grpc::Server> server_;
  absl::Duration grace_period_;
  int port_ = 0;
};

}  // namespace quantloom
