// What int8 activations cost a packed model on the CPU beside what its codec does: KL(source ||
// packed) with activations in fp32, and KL(packed with fp32 activations || packed as it runs).
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "engine/device.h"
#include "engine/loaded_model.h"
#include "engine/quantize/evaluation.h"

namespace quantloom {
namespace {

struct Options {
  std::string source, packed, text;
  uint32_t windows = 10;
  uint32_t window_tokens = 512;
};

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadWith(const std::string& directory,
                                                            std::optional<cpu::ActivationForm> form,
                                                            ThreadTeam& team) {
  QL_ASSIGN_OR_RETURN(const auto device, OpenCpu(form));
  return LoadedModel::LoadPacked(directory, Verify::kHeader, *device, team);
}

absl::Status Run(const Options& options) {
  ThreadTeam team;
  QL_ASSIGN_OR_RETURN(const auto source, LoadedModel::LoadSource(options.source, team));
  QL_ASSIGN_OR_RETURN(const auto exact,
                      LoadWith(options.packed, cpu::ActivationForm::kFloat, team));
  QL_ASSIGN_OR_RETURN(const auto packed, LoadWith(options.packed, std::nullopt, team));
  QL_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.text));
  const std::vector<int32_t> tokens = source->EncodePrompt(text, /*parse_special=*/false);
  const auto compare = [&](const LoadedModel& from, const LoadedModel& to) {
    return CompareModels(from, to, tokens, options.windows, options.window_tokens, team,
                         [](double) { return absl::OkStatus(); });
  };
  QL_ASSIGN_OR_RETURN(const QualityMetrics codec, compare(*source, *exact));
  QL_ASSIGN_OR_RETURN(const QualityMetrics activations, compare(*exact, *packed));
  std::printf("codec %.5f nats, activations %.6f nats: %.2f %% of the codec's; top-1 %.2f %%\n",
              codec.kl_mean, activations.kl_mean, 100 * activations.kl_mean / codec.kl_mean,
              100 * activations.top1_agreement);
  return absl::OkStatus();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  CLI::App app("KL divergence of int8 activations beside the codec's own");
  quantloom::Options options;
  app.add_option("source", options.source, "Source model: a directory or GGUF file")->required();
  app.add_option("packed", options.packed, "Packed model directory")->required();
  app.add_option("text", options.text, "UTF-8 text")->required();
  app.add_option("--windows", options.windows, "Windows of the text; 0: all");
  app.add_option("--window-tokens", options.window_tokens, "Tokens of a window");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = quantloom::Run(options);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
