#include "services/server/server.h"

#include <chrono>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "kernels/cpu/linear.h"
#include "services/common/device_metrics.h"
#include "services/common/device_setting.h"

namespace quantloom {
namespace {

// Of a model's name in grpc.health.v1.
constexpr char kModelHealthPrefix[] = "models/";
constexpr auto kInterruptionPoll = std::chrono::milliseconds(50);

absl::Status LoadAndWait(ModelRegistry& models, const std::string& name,
                         const std::function<bool()>& interrupted) {
  const absl::Status stopped = absl::CancelledError("interrupted while models were loaded");
  if (interrupted()) return stopped;
  const auto loaded = std::make_shared<std::promise<absl::Status>>();  // may outlive the wait
  std::future<absl::Status> result = loaded->get_future();
  models.Load(name, [loaded](const auto& model) { loaded->set_value(model.status()); });
  while (result.wait_for(kInterruptionPoll) != std::future_status::ready) {
    if (interrupted()) return stopped;
  }
  return result.get();
}

}  // namespace

Server::Server(const ServerOptions& options, ConfinedRoot root,
               std::shared_ptr<const Device> device)
    : options_(options),
      team_(options.threads),
      models_({.root = std::move(root),
               .verify = options.verify_mode(),
               .device = device,
               .memory_limit = options.memory_limit,
               .engine = options.engine},
              team_),
      serving_metrics_(metrics_.registry()),
      generation_service_(models_, serving_metrics_, options.input),
      model_service_(models_, DescribeServer(*device, options.engine, team_.size(),
                                             options.grpc.max_message_bytes)) {
  metrics_.Add(std::make_shared<EngineMetrics>(models_));
  metrics_.Add(std::make_shared<DeviceMemoryGauges>(*device));
}

// Members would do the rest, but the registry must not tell a server that is gone.
Server::~Server() {
  watcher_.reset();
  models_.SetListener({});
  models_.SetFailureListener({});
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  QL_ASSIGN_OR_RETURN(std::unique_ptr<Device> device,
                      OpenDeviceSetting(options.device, options.prefill_mode()));
  return Start(options, std::move(device));
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      std::shared_ptr<const Device> device) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  absl::StatusOr<ConfinedRoot> root = ConfinedRoot::Open(options.model_root);
  if (!root.ok()) return Annotate(root.status(), "model-root");
  std::unique_ptr<Server> server(new Server(options, *std::move(root), std::move(device)));
  if (options.pin_threads) {
    const absl::Status pinned = server->team_.PinWorkers();
    if (!pinned.ok()) return Annotate(pinned, "pin-threads");
  }
  QL_ASSIGN_OR_RETURN(
      server->grpc_,
      GrpcServer::Start(
          options.grpc, {&server->generation_service_, &server->model_service_},
          {v1::GenerationService::service_full_name(), v1::ModelService::service_full_name()},
          server->metrics_));
  server->models_.SetListener([grpc = server->grpc_.get()](const std::string& name, bool serving) {
    grpc->SetServing(absl::StrCat(kModelHealthPrefix, name), serving);
  });
  // No model of this process can use the device any more: the whole server is of no use.
  server->models_.SetFailureListener([grpc = server->grpc_.get()] { grpc->SetServing(false); });
  return server;
}

absl::Status Server::LoadModels(const std::function<bool()>& interrupted) {
  for (const std::string& name : options_.load) {
    QL_RETURN_IF_ERROR(LoadAndWait(models_, name, interrupted));
  }
  if (options_.load_all) {
    QL_ASSIGN_OR_RETURN(const std::vector<std::string> names, models_.root().Names());
    for (const std::string& name : names) {
      // The registry logs why a model cannot be loaded; the others are served without it.
      const absl::Status loaded = LoadAndWait(models_, name, interrupted);
      if (absl::IsCancelled(loaded)) return loaded;
    }
  }
  grpc_->SetServing(true);
  if (options_.watch_models > absl::ZeroDuration()) {
    watcher_ = std::make_unique<ModelWatcher>(
        models_,
        ModelWatcher::Options{.interval = options_.watch_models, .load_new = options_.load_all});
  }
  return absl::OkStatus();
}

void Server::Drain() {
  watcher_.reset();
  grpc_->Drain({.stop_admitting = [this] { models_.StopAdmitting(); },
                .end_streams = [this] { models_.EndRequests(); }});
}

}  // namespace quantloom
