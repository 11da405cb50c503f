// The whole quantizer: job store, runner, service, metrics and the gRPC server around them.
//
//   QL_ASSIGN_OR_RETURN(auto quantizer, Quantizer::Start(options));
//   WaitForTerminationSignal([&] { quantizer->Reload(read_settings()); });
//   quantizer->Drain();
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device.h"
#include "services/common/confined_root.h"
#include "services/common/grpc_server.h"
#include "services/common/metrics.h"
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

// Members are destroyed in reverse order: first what takes requests, last what runs them.
class Quantizer {
 public:
  // Binds, answers, and goes on with the jobs that the store has. When the device fails, health
  // becomes NOT_SERVING, so that what keeps the process running replaces it. An error names the
  // setting: FAILED_PRECONDITION for a CPU that is too old, a device that cannot be used, or a
  // state directory in use; INVALID_ARGUMENT for a device that there is not; NOT_FOUND for no
  // source or model root; UNAVAILABLE for an address that is taken.
  static absl::StatusOr<std::unique_ptr<Quantizer>> Start(const QuantizerOptions& options);
  // On a device of the caller's.
  static absl::StatusOr<std::unique_ptr<Quantizer>> Start(const QuantizerOptions& options,
                                                          std::shared_ptr<const Device> device);
  // Running jobs stop where they are, to be resumed by the next process.
  ~Quantizer();

  // What GrpcServer::Reload does.
  void Reload(const absl::StatusOr<GrpcServerOptions>& options) { grpc_->Reload(options); }
  // Ends the quantizer as GrpcServer::Drain says, and running jobs as the destructor does.
  void Drain();

  int port() const { return grpc_->port(); }

 private:
  // What Start opens before there is anything to run.
  struct Places {
    ConfinedRoot source_root;
    ConfinedRoot model_root;
    std::unique_ptr<DirectoryLock> state;
    std::unique_ptr<SqliteJobStore> store;
  };
  static absl::StatusOr<Places> OpenPlaces(const QuantizerOptions& options);

  Quantizer(const QuantizerOptions& options, Places places, std::shared_ptr<const Device> device);

  const std::shared_ptr<const Device> device_;
  const std::unique_ptr<DirectoryLock> state_;
  const std::unique_ptr<SqliteJobStore> store_;
  EventSignal signal_;
  Metrics metrics_{"quantloom-quantizer"};
  QuantizerMetrics quantizer_metrics_;
  const Publisher publisher_;
  JobRunner runner_;
  Evaluator evaluator_;
  QuantizationServiceImpl service_;
  std::unique_ptr<GrpcServer> grpc_;
};

}  // namespace quantloom
