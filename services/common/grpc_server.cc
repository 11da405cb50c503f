#include "services/common/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "core/base/status.h"
#include "services/common/access_interceptor.h"
#include "services/common/logging.h"

namespace quantloom {
namespace {

// Given to streams that end_streams ended to send their status.
constexpr absl::Duration kEndStreamsTime = absl::Seconds(1);
constexpr absl::Duration kIdlePollInterval = absl::Milliseconds(10);
// Clients may send keepalive pings this often even without a call.
constexpr absl::Duration kMinPingInterval = absl::Seconds(10);

int Milliseconds(absl::Duration duration) {
  constexpr int64_t kMax = 1 << 30;
  return static_cast<int>(std::min(kMax, absl::ToInt64Milliseconds(duration)));
}

void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

void SetChannelArguments(const GrpcServerOptions& options, grpc::ServerBuilder& builder) {
  // Without this a second server on the same port would silently share its connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_interval));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             Milliseconds(options.keepalive_timeout));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(kMinPingInterval));
  if (options.max_connection_age > absl::ZeroDuration()) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                               Milliseconds(options.max_connection_age));
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                               Milliseconds(options.max_connection_age_grace));
  }
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.SetMaxSendMessageSize(options.max_message_bytes);
  // Only reflection uses synchronous handlers.
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
}

bool IsLoopback(const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  return parsed.ok() && (parsed->host == "localhost" || parsed->host == "::1" ||
                         absl::StartsWith(parsed->host, "127."));
}

absl::Status WritePortFile(const std::string& path, int port) {
  if (path.empty()) return absl::OkStatus();
  return WriteFileAtomically(path, absl::StrCat(port, "\n"));
}

}  // namespace

void GrpcServerOptions::AddTo(Configuration& configuration) {
  configuration.Add("address", address, "host:port to serve gRPC on; port 0 picks a free one");
  configuration.Add(
      "metrics-address", metrics_address,
      "host:port to serve Prometheus metrics on; port 0 picks a free one; \"\": none");
  configuration.Add("port-file", port_file, "File to write the port bound for gRPC to");
  configuration.Add("metrics-port-file", metrics_port_file,
                    "File to write the port bound for metrics to");
  configuration.Add("health-address", health_address,
                    "host:port to serve health alone on, without TLS and tokens; port 0 picks a "
                    "free one; \"\": none");
  configuration.Add("health-port-file", health_port_file,
                    "File to write the port bound for health to");
  tls.AddTo(configuration);
  access.AddTo(configuration);
  configuration.Add("credential-refresh-interval", credential_refresh_interval,
                    "Look for changed certificate and token files this often; 0: on SIGHUP only");
  configuration.Add("max-message-bytes", max_message_bytes, "Largest message in either direction")
      ->check(CLI::Range(1 << 16, 1 << 30));
  configuration.Add("keepalive-interval", keepalive_interval,
                    "Ping a silent connection after this time");
  configuration.Add("keepalive-timeout", keepalive_timeout,
                    "Close a connection whose ping was not answered for this time");
  configuration.Add("max-connection-age", max_connection_age,
                    "Ask clients to connect anew after this time; 0: never");
  configuration.Add("max-connection-age-grace", max_connection_age_grace,
                    "Time for calls to end on a connection that reached its age");
  configuration.Add("grace-period", grace_period,
                    "Time for calls to end after SIGTERM or SIGINT; a second signal ends at once");
}

absl::Status GrpcServer::LoadCredentials(const GrpcServerOptions& options, Metrics& metrics) {
  QL_RETURN_IF_ERROR(options.tls.Check());
  if (options.tls.enabled()) {
    QL_ASSIGN_OR_RETURN(CertificateFiles files, ReadCertificateFiles(options.tls));
    LogInfo("TLS certificate", {{"subject", files.subject},
                                {"expires", absl::FormatTime(files.expiry, absl::UTCTimeZone())}});
    credentials_ = std::make_shared<TlsCredentials>(std::move(files));
  } else if (!options.access.token_file.empty() && !IsLoopback(options.address)) {
    LogWarning("tokens travel unencrypted: set tls-certificate and tls-key",
               {{"address", options.address}});
  }
  QL_ASSIGN_OR_RETURN(access_, AccessControl::Create(options.access, metrics.registry()));
  credential_reload_ = std::make_unique<CredentialReload>(
      CredentialReload::Options{options.tls, options.access.token_file,
                                options.credential_refresh_interval},
      credentials_, access_, reload_log_, metrics.registry());
  return absl::OkStatus();
}

absl::Status GrpcServer::Bind(const GrpcServerOptions& options,
                              const std::vector<grpc::Service*>& services) {
  grpc::ServerBuilder builder;
  if (credentials_ != nullptr) {
    builder.AddListeningPort(options.address, credentials_, &port_);
  } else {
    builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &port_);
  }
  SetChannelArguments(options, builder);
  for (grpc::Service* service : services) builder.RegisterService(service);
  SetCallContexts(builder);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeAccessInterceptor(access_));
  interceptors.push_back(MakeRequestInterceptor(request_metrics_));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot serve on '", options.address, "'"));
  }
  if (!options.health_address.empty()) {
    absl::StatusOr<std::unique_ptr<HealthServer>> health =
        HealthServer::Start(options.health_address);
    if (!health.ok()) return Annotate(health.status(), "health-address");
    health_ = *std::move(health);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services,
    const std::vector<std::string>& service_names, Metrics& metrics) {
  QL_RETURN_IF_ERROR(Annotate(ParseHostPort(options.address).status(), "address"));
  EnableHealthAndReflection();
  std::unique_ptr<GrpcServer> server(new GrpcServer(metrics));
  server->service_names_ = service_names;
  server->grace_period_ = options.grace_period;
  server->request_metrics_ = std::make_shared<RequestMetrics>(metrics.registry(), service_names);
  QL_RETURN_IF_ERROR(server->LoadCredentials(options, metrics));
  QL_RETURN_IF_ERROR(server->Bind(options, services));
  server->SetServing(false);

  if (!options.metrics_address.empty()) QL_RETURN_IF_ERROR(metrics.Serve(options.metrics_address));
  const int health_port = server->health_ == nullptr ? 0 : server->health_->port();
  QL_RETURN_IF_ERROR(WritePortFile(options.metrics_port_file, metrics.port()));
  QL_RETURN_IF_ERROR(WritePortFile(options.health_port_file, health_port));
  QL_RETURN_IF_ERROR(WritePortFile(options.port_file, server->port_));
  LogInfo("listening", {{"address", options.address},
                        {"grpc_port", server->port_},
                        {"metrics_port", metrics.port()},
                        {"health_port", health_port},
                        {"tls", options.tls.enabled() ? "on" : "off"},
                        {"tokens", options.access.token_file.empty() ? "off" : "on"}});
  return server;
}

void GrpcServer::Reload(const absl::StatusOr<GrpcServerOptions>& options) {
  if (options.ok()) access_->SetLimits(options->access.limits);
  reload_log_.Record("settings", options.status());
  credential_reload_->Reload();
}

GrpcServer::~GrpcServer() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

void GrpcServer::SetServing(bool serving) {
  SetServing("", serving);
  for (const std::string& name : service_names_) SetServing(name, serving);
}

void GrpcServer::SetServing(const std::string& service_name, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service_name, serving);
  if (health_ != nullptr) health_->SetServing(service_name, serving);
}

bool GrpcServer::WaitUntilIdle(absl::Duration limit) const {
  const absl::Time end = absl::Now() + limit;
  while (request_metrics_->active() > 0) {
    if (absl::Now() >= end) return false;
    absl::SleepFor(kIdlePollInterval);
  }
  return true;
}

void GrpcServer::Drain(const DrainHooks& hooks) {
  LogInfo("draining", {{"active_calls", request_metrics_->active()},
                       {"grace_seconds", absl::ToDoubleSeconds(grace_period_)}});
  SetServing(false);
  if (hooks.stop_admitting) hooks.stop_admitting();
  if (!WaitUntilIdle(grace_period_)) {
    LogWarning("grace period over", {{"active_calls", request_metrics_->active()}});
    if (hooks.end_streams) hooks.end_streams();
    WaitUntilIdle(kEndStreamsTime);
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  LogInfo("stopped");
}

}  // namespace quantloom
