// What the main() of every service is: settings, log, service, exit code.
#pragma once

#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "services/common/configuration.h"
#include "services/common/logging.h"
#include "services/common/mapping_fault.h"
#include "services/common/termination.h"

namespace quantloom {

// Parses the command line into `Options` (AddTo(Configuration&), LogOptions log) and calls `serve`,
// which returns when the service has ended as it was asked to, or cannot serve. Returns the exit
// code: 0 after a regular end, 1 when it could not serve, 2 for wrong settings.
template <typename Options>
int RunProgram(const std::string& name, const std::string& description, int argc,
               const char* const* argv, absl::Status (*serve)(const Options&)) {
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
  const absl::Status status = serve(options);
  if (status.ok()) return 0;
  LogError("cannot serve", {{"error", status.ToString()}});
  return 1;
}

}  // namespace quantloom
