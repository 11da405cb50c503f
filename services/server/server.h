// The whole server: models, services, metrics and the gRPC server around them.
//
//   QL_ASSIGN_OR_RETURN(auto server, Server::Start(options));
//   QL_RETURN_IF_ERROR(server->LoadModels(TerminationSignalPending));
//   WaitForTerminationSignal([&] { server->Reload(read_settings()); });
//   server->Drain();
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "engine/device.h"
#include "services/common/confined_root.h"
#include "services/common/grpc_server.h"
#include "services/common/metrics.h"
#include "services/server/generation_service.h"
#include "services/server/model_registry.h"
#include "services/server/model_service.h"
#include "services/server/model_watcher.h"
#include "services/server/server_options.h"
#include "services/server/serving_metrics.h"

namespace quantloom {

// Members are destroyed in reverse order: first what takes requests, last what runs them.
class Server {
 public:
  // Binds and answers, with no model loaded and health NOT_SERVING. NOT_FOUND for no model root,
  // FAILED_PRECONDITION for a CPU that is too old or a device that cannot be used, INVALID_ARGUMENT
  // for one that there is not, UNAVAILABLE for an address that is taken.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  // On a device of the caller's.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       std::shared_ptr<const Device> device);
  ~Server();

  // Loads the models that the options name, reports SERVING, and begins to watch the root. An error
  // when one that is named by itself cannot be loaded; of load_all's only the loadable count.
  // `interrupted` is polled, and ends it early with CANCELLED; a load that has begun goes on, and
  // the destructor waits for it.
  absl::Status LoadModels(const std::function<bool()>& interrupted);
  // What GrpcServer::Reload does.
  void Reload(const absl::StatusOr<GrpcServerOptions>& options) { grpc_->Reload(options); }
  // Ends the server as GrpcServer::Drain says; running streams get the grace period.
  void Drain();

  int port() const { return grpc_->port(); }
  int metrics_port() const { return metrics_.port(); }
  ModelRegistry& models() { return models_; }

 private:
  Server(const ServerOptions& options, ConfinedRoot root, std::shared_ptr<const Device> device);

  const ServerOptions options_;
  ThreadTeam team_;
  ModelRegistry models_;
  Metrics metrics_{"quantloom-server"};
  ServingMetrics serving_metrics_;
  GenerationServiceImpl generation_service_;
  ModelServiceImpl model_service_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<ModelWatcher> watcher_;
};

}  // namespace quantloom
