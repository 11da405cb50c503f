#include "services/quantizer/quantizer.h"

#include <filesystem>
#include <utility>

#include "core/base/status.h"
#include "engine/quantize/quantize_model.h"
#include "kernels/cpu/linear.h"
#include "services/common/device_metrics.h"
#include "services/common/device_setting.h"

namespace quantloom {
namespace {

QuantizeFunction WorkOn(const Device& device) {
  return [&device](const QuantizeOptions& options, const std::filesystem::path& staging,
                   ThreadTeam& team, const auto& progress, const auto& cancelled) {
    return QuantizeModel(options, staging, device, team, progress, cancelled);
  };
}

}  // namespace

Quantizer::Quantizer(const QuantizerOptions& options, Places places,
                     std::shared_ptr<const Device> device)
    : device_(std::move(device)),
      state_(std::move(places.state)),
      store_(std::move(places.store)),
      quantizer_metrics_(metrics_.registry()),
      publisher_(places.model_root.path()),
      runner_({.max_running = options.max_running_jobs,
               .threads = options.threads,
               .max_crashes = options.max_job_crashes},
              places.source_root, publisher_, WorkOn(*device_), *store_, quantizer_metrics_),
      evaluator_({.max_running = options.max_running_evaluations, .threads = options.threads},
                 places.source_root, places.model_root),
      service_(options.max_queued_jobs, places.source_root, publisher_, ResolveQuantizeOptions,
               *store_, signal_, runner_, evaluator_) {
  store_->SetListener([this](const std::string& job) { signal_.Notify(job); });
  metrics_.Add(std::make_shared<JobGauges>(*store_));
  metrics_.Add(std::make_shared<DeviceMemoryGauges>(*device_));
}

// Members would do the rest, but the runner must not tell a gRPC server that is gone.
Quantizer::~Quantizer() { runner_.Stop(); }

absl::StatusOr<Quantizer::Places> Quantizer::OpenPlaces(const QuantizerOptions& options) {
  absl::StatusOr<ConfinedRoot> source_root = ConfinedRoot::Open(options.source_root);
  if (!source_root.ok()) return Annotate(source_root.status(), "source-root");
  absl::StatusOr<ConfinedRoot> model_root = ConfinedRoot::Open(options.model_root);
  if (!model_root.ok()) return Annotate(model_root.status(), "model-root");
  auto state = DirectoryLock::Acquire(options.state_dir);
  if (!state.ok()) return Annotate(state.status(), "state-dir");
  QL_ASSIGN_OR_RETURN(auto store,
                      SqliteJobStore::Open(std::filesystem::path(options.state_dir) / "jobs.db"));
  return Places{.source_root = *std::move(source_root),
                .model_root = *std::move(model_root),
                .state = *std::move(state),
                .store = std::move(store)};
}

absl::StatusOr<std::unique_ptr<Quantizer>> Quantizer::Start(const QuantizerOptions& options) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  QL_ASSIGN_OR_RETURN(std::unique_ptr<Device> device, OpenDeviceSetting(options.device));
  return Start(options, std::move(device));
}

absl::StatusOr<std::unique_ptr<Quantizer>> Quantizer::Start(const QuantizerOptions& options,
                                                            std::shared_ptr<const Device> device) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  QL_ASSIGN_OR_RETURN(Places places, OpenPlaces(options));
  std::unique_ptr<Quantizer> quantizer(
      new Quantizer(options, std::move(places), std::move(device)));
  QL_ASSIGN_OR_RETURN(
      quantizer->grpc_,
      GrpcServer::Start(options.grpc, {&quantizer->service_},
                        {v1::QuantizationService::service_full_name()}, quantizer->metrics_));
  quantizer->grpc_->SetServing(true);
  quantizer->runner_.SetDeviceFailureListener(
      [grpc = quantizer->grpc_.get()] { grpc->SetServing(false); });
  quantizer->runner_.Start();
  return quantizer;
}

void Quantizer::Drain() {
  grpc_->Drain({.stop_admitting =
                    [this] {
                      runner_.RequestStop();
                      service_.StopAdmitting();
                    },
                .end_streams = {}});
  runner_.Stop();
}

}  // namespace quantloom
