// What the main() of every service is: settings, log, service, exit code; and the settings again on
// SIGHUP.
#pragma once

#include <functional>
#include <iostream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/configuration.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "services/common/mapping_fault.h"
#include "services/common/reload.h"
#include "services/common/termination.h"

namespace quantloom {

// The settings as they are now: the file may have changed since the start, flags and environment
// have not. INVALID_ARGUMENT when they are wrong.
template <typename Options>
using ReadSettings = std::function<absl::StatusOr<Options>()>;

// Waits for the signal that ends a service; on SIGHUP puts into effect what can change meanwhile:
// log-level here, and what `reload(options)` takes, which GrpcServer::Reload gets.
template <typename Options>
void ReloadUntilTermination(
    const ReadSettings<Options>& read_settings,
    const std::function<void(const absl::StatusOr<GrpcServerOptions>&)>& reload) {
  WaitForTerminationSignal([&] {
    const absl::StatusOr<Options> options = read_settings();
    if (!options.ok()) return reload(options.status());
    SetLogLevel(options->log.level);
    reload(options->grpc);
  });
}

// Parses the command line into `Options` (AddTo(Configuration&), LogOptions log, GrpcServerOptions
// grpc) and calls `serve`, which returns when the service has ended as it was asked to, or cannot
// serve. Returns the exit code: 0 after a regular end, 1 when it could not serve, 2 for wrong
// settings.
template <typename Options>
int RunProgram(const std::string& name, const std::string& description, int argc,
               const char* const* argv,
               absl::Status (*serve)(const Options&, const ReadSettings<Options>&)) {
  BlockTerminationSignals();
  ReportMappingFaults();
  Configuration configuration(name, description);
  Options options;
  options.AddTo(configuration);
  if (const auto exit_code = configuration.Parse(argc, argv, std::cout, std::cerr)) {
    return *exit_code;
  }
  ConfigureLogging(options.log);
  LogInfo("starting", {{"program", name}, {"configuration", configuration.ToString()}});
  const ReadSettings<Options> read_settings = [&]() -> absl::StatusOr<Options> {
    Configuration again(name, description);
    Options read;
    read.AddTo(again);
    std::ostringstream out;
    std::ostringstream err;
    if (again.Parse(argc, argv, out, err)) return absl::InvalidArgumentError(err.str());
    for (const std::string& setting : configuration.Differences(again)) {
      if (!ChangesAtRunTime(setting)) {
        LogWarning("a setting has changed; it takes effect at the next start",
                   {{"setting", setting}});
      }
    }
    return read;
  };
  const absl::Status status = serve(options, read_settings);
  if (status.ok()) return 0;
  LogError("cannot serve", {{"error", status.ToString()}});
  return 1;
}

}  // namespace quantloom
