// quantloom-server: serves packed models over gRPC.

#include <memory>

#include "absl/status/status.h"
#include "core/base/status.h"
#include "services/common/program.h"
#include "services/common/termination.h"
#include "services/server/server.h"
#include "services/server/server_options.h"

namespace quantloom {
namespace {

constexpr char kProgram[] = "quantloom-server";

absl::Status Serve(const ServerOptions& options, const ReadSettings<ServerOptions>& read_settings) {
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server, Server::Start(options));
  const absl::Status loaded = server->LoadModels(TerminationSignalPending);
  if (!loaded.ok() && !absl::IsCancelled(loaded)) return loaded;
  ReloadUntilTermination<ServerOptions>(read_settings,
                                        [&](const auto& grpc) { server->Reload(grpc); });
  server->Drain();
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  return quantloom::RunProgram(quantloom::kProgram, "Serves packed language models over gRPC.",
                               argc, argv, quantloom::Serve);
}
