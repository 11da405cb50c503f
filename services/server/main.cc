// quantloom-server: serves packed models over gRPC.

#include <future>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "kernels/cpu/linear.h"
#include "services/common/configuration.h"
#include "services/common/confined_root.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "services/common/metrics.h"
#include "services/common/termination.h"
#include "services/server/generation_service.h"
#include "services/server/model_registry.h"
#include "services/server/model_service.h"
#include "services/server/server_options.h"
#include "services/server/serving_metrics.h"

namespace quantloom {
namespace {

absl::Status LoadAndWait(ModelRegistry& models, const std::string& name) {
  std::promise<absl::Status> loaded;
  models.Load(name, [&loaded](const auto& model) { loaded.set_value(model.status()); });
  return loaded.get_future().get();
}

absl::Status LoadModels(ModelRegistry& models, const ServerOptions& options) {
  for (const std::string& name : options.load) {
    QL_RETURN_IF_ERROR(LoadAndWait(models, name));
  }
  if (!options.load_all) return absl::OkStatus();
  QL_ASSIGN_OR_RETURN(const std::vector<std::string> names, models.Names());
  for (const std::string& name : names) {
    // The registry logs why a model cannot be loaded; the others are served without it.
    (void)LoadAndWait(models, name);
  }
  return absl::OkStatus();
}

absl::Status Serve(const ServerOptions& options) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  QL_ASSIGN_OR_RETURN(ConfinedRoot root, ConfinedRoot::Open(options.model_root));
  ThreadTeam team(options.threads);
  ModelRegistry models({.root = std::move(root),
                        .verify = options.verify_mode(),
                        .memory_limit = options.memory_limit,
                        .engine = options.engine},
                       team);
  Metrics metrics("quantloom-server");
  ServingMetrics serving_metrics(metrics.registry());
  metrics.Add(std::make_shared<EngineMetrics>(models));
  GenerationServiceImpl generation(models, serving_metrics, options.input);
  ModelServiceImpl model_service(
      models, DescribeServer(options.engine, team.size(), options.grpc.max_message_bytes));

  QL_ASSIGN_OR_RETURN(const auto server,
                      GrpcServer::Start(options.grpc, {&generation, &model_service},
                                        {v1::GenerationService::service_full_name(),
                                         v1::ModelService::service_full_name()},
                                        metrics));
  QL_RETURN_IF_ERROR(LoadModels(models, options));
  server->SetServing(true);
  WaitForTerminationSignal();
  server->Drain({.stop_admitting = [&models] { models.StopAdmitting(); },
                 .end_streams = [&models] { models.EndRequests(); }});
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  using namespace quantloom;
  BlockTerminationSignals();
  ServerOptions options;
  Configuration configuration("quantloom-server", "Serves packed language models over gRPC.");
  options.AddTo(configuration);
  if (const auto exit_code = configuration.Parse(argc, argv, std::cout, std::cerr)) {
    return *exit_code;
  }
  ConfigureLogging(options.log);
  LogInfo("settings\n" + configuration.ToString());
  if (const absl::Status status = Serve(options); !status.ok()) {
    LogError("cannot serve", {{"error", status.ToString()}});
    return 1;
  }
  return 0;
}
