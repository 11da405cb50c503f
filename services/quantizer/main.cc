// quantloom-quantizer: turns full-precision models into packed ones, as durable jobs over gRPC.

#include <memory>

#include "absl/status/status.h"
#include "core/base/status.h"
#include "services/common/program.h"
#include "services/quantizer/quantizer.h"
#include "services/quantizer/quantizer_options.h"

namespace quantloom {
namespace {

absl::Status Serve(const QuantizerOptions& options,
                   const ReadSettings<QuantizerOptions>& read_settings) {
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<Quantizer> quantizer, Quantizer::Start(options));
  ReloadUntilTermination<QuantizerOptions>(read_settings,
                                           [&](const auto& grpc) { quantizer->Reload(grpc); });
  quantizer->Drain();
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  return quantloom::RunProgram("quantloom-quantizer",
                               "Turns full-precision language models into packed ones.", argc, argv,
                               quantloom::Serve);
}
