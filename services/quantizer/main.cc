// quantloom-quantizer: turns full-precision models into packed ones, as durable jobs over gRPC.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "core/base/status.h"
#include "engine/device.h"
#include "engine/quantize/quantize_model.h"
#include "kernels/cpu/linear.h"
#include "services/common/confined_root.h"
#include "services/common/device_metrics.h"
#include "services/common/device_setting.h"
#include "services/common/grpc_server.h"
#include "services/common/metrics.h"
#include "services/common/program.h"
#include "services/common/termination.h"
#include "services/quantizer/directory_lock.h"
#include "services/quantizer/evaluator.h"
#include "services/quantizer/event_signal.h"
#include "services/quantizer/job_runner.h"
#include "services/quantizer/publication.h"
#include "services/quantizer/quantization_service.h"
#include "services/quantizer/quantizer_metrics.h"
#include "services/quantizer/quantizer_options.h"
#include "services/quantizer/sqlite_job_store.h"

namespace quantloom {
namespace {

constexpr char kProgram[] = "quantloom-quantizer";

QuantizeFunction WorkOn(const Device& device) {
  return [&device](const QuantizeOptions& options, const std::filesystem::path& staging,
                   ThreadTeam& team, const auto& progress, const auto& cancelled) {
    return QuantizeModel(options, staging, device, team, progress, cancelled);
  };
}

absl::Status Serve(const QuantizerOptions& options,
                   const ReadSettings<QuantizerOptions>& read_settings) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, OpenDeviceSetting(options.device));
  absl::StatusOr<ConfinedRoot> source_root = ConfinedRoot::Open(options.source_root);
  if (!source_root.ok()) return Annotate(source_root.status(), "source-root");
  absl::StatusOr<ConfinedRoot> model_root = ConfinedRoot::Open(options.model_root);
  if (!model_root.ok()) return Annotate(model_root.status(), "model-root");
  const auto lock = DirectoryLock::Acquire(options.state_dir);
  if (!lock.ok()) return Annotate(lock.status(), "state-dir");
  const std::filesystem::path database = std::filesystem::path(options.state_dir) / "jobs.db";
  QL_ASSIGN_OR_RETURN(const auto store, SqliteJobStore::Open(database));

  EventSignal signal;
  store->SetListener([&signal](const std::string& job) { signal.Notify(job); });
  Metrics metrics(kProgram);
  metrics.Add(std::make_shared<JobGauges>(*store));
  metrics.Add(std::make_shared<DeviceMemoryGauges>(*device));
  QuantizerMetrics quantizer_metrics(metrics.registry());
  const Publisher publisher(model_root->path());
  JobRunner runner({.max_running = options.max_running_jobs,
                    .threads = options.threads,
                    .max_crashes = options.max_job_crashes},
                   *source_root, publisher, WorkOn(*device), *store, quantizer_metrics);
  Evaluator evaluator({.max_running = options.max_running_evaluations, .threads = options.threads},
                      *source_root, *model_root);
  QuantizationServiceImpl service(options.max_queued_jobs, *source_root, publisher,
                                  ResolveQuantizeOptions, *store, signal, runner, evaluator);
  QL_ASSIGN_OR_RETURN(const auto server,
                      GrpcServer::Start(options.grpc, {&service},
                                        {v1::QuantizationService::service_full_name()}, metrics));
  server->SetServing(true);
  // So that what keeps the process running replaces it.
  runner.SetDeviceFailureListener([&server] { server->SetServing(false); });
  runner.Start();

  ReloadUntilTermination<QuantizerOptions>(read_settings,
                                           [&](const auto& grpc) { server->Reload(grpc); });
  server->Drain({.stop_admitting =
                     [&] {
                       runner.RequestStop();
                       service.StopAdmitting();
                     },
                 .end_streams = {}});
  runner.Stop();
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  return quantloom::RunProgram(quantloom::kProgram,
                               "Turns full-precision language models into packed ones.", argc, argv,
                               quantloom::Serve);
}
