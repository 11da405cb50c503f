// quantloom-server: serves packed models over gRPC.

#include <iostream>
#include <memory>

#include "absl/status/status.h"
#include "core/base/status.h"
#include "services/common/configuration.h"
#include "services/common/logging.h"
#include "services/common/termination.h"
#include "services/server/server.h"
#include "services/server/server_options.h"

namespace quantloom {
namespace {

constexpr char kProgram[] = "quantloom-server";

absl::Status Serve(const ServerOptions& options) {
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server, Server::Start(options));
  QL_RETURN_IF_ERROR(server->LoadModels());
  WaitForTerminationSignal();
  server->Drain();
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  using namespace quantloom;
  BlockTerminationSignals();
  Configuration configuration(kProgram, "Serves packed language models over gRPC.");
  ServerOptions options;
  options.AddTo(configuration);
  if (const auto exit_code = configuration.Parse(argc, argv, std::cout, std::cerr)) {
    return *exit_code;
  }
  ConfigureLogging(options.log);
  LogInfo("starting", {{"program", kProgram}, {"configuration", configuration.ToString()}});
  if (const absl::Status status = Serve(options); !status.ok()) {
    LogError("cannot serve", {{"error", status.ToString()}});
    return 1;
  }
  return 0;
}
