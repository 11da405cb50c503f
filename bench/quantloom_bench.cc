// Prompt and decode speed of a model, beside what the machine does at best: `quantloom bench`.
//
//   quantloom-bench --threads=2 --prompt=128,512 --batch=1,8 packed-directory

#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/machine_limits.h"
#include "bench/model_speed.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "engine/device.h"
#include "engine/loaded_model.h"
#include "engine/model.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

using nlohmann::json;

struct Options {
  std::string model;
  std::string device = "cpu";
  int threads = 0;
  std::vector<uint32_t> prompts = {512};
  std::vector<uint32_t> batches = {1};
  uint32_t generate = 128;
  uint32_t chunk = 512;
  bool f32_kv = false;
  bool json = false;
};

// What the machine does at best; zero where the model runs on another device.
struct Limits {
  double read_bytes = 0;
  double int8_products = 0;
};

// The figures of one batch size and prompt length.
json Figures(const LoadedModel& model, const Limits& limits, const SpeedOptions& options,
             const ModelSpeed& speed) {
  const WeightCounts weights = CountWeights(model.config());
  const double prompt_tokens = double{1} * options.batch * options.prompt;
  const double prompt_products = prompt_tokens * static_cast<double>(weights.layers) +
                                 double{1} * options.batch * static_cast<double>(weights.head);
  json figures = {{"batch", options.batch},
                  {"prompt_tokens", options.prompt},
                  {"chunk_tokens", options.chunk},
                  {"prompt_tokens_per_second", prompt_tokens / speed.prompt_seconds},
                  {"prompt_multiply_adds_per_second", prompt_products / speed.prompt_seconds}};
  if (limits.int8_products > 0) {
    figures["prompt_share_of_int8_peak"] =
        prompt_products / speed.prompt_seconds / limits.int8_products;
  }
  if (options.generate == 0) return figures;
  const double bytes = static_cast<double>(model.weight_bytes());
  const double step_products =
      double{1} * options.batch * static_cast<double>(weights.layers + weights.head);
  figures["generated_tokens"] = options.generate;
  figures["generated_tokens_per_second"] = double{1} * options.batch / speed.step_seconds;
  figures["step_seconds"] = speed.step_seconds;
  figures["layers_seconds"] = speed.layers_seconds;
  figures["head_seconds"] = speed.step_seconds - speed.layers_seconds;
  figures["linear_weights_per_second"] =
      double{1} * options.batch * static_cast<double>(weights.layers) / speed.layers_seconds;
  figures["weight_bytes_per_second"] = bytes / speed.step_seconds;
  if (speed.read_bandwidth > 0) {
    figures["read_bytes_per_second"] = speed.read_bandwidth;
    figures["share_of_read_bandwidth"] = bytes / speed.step_seconds / speed.read_bandwidth;
  }
  if (limits.int8_products > 0) {
    figures["share_of_int8_peak"] = step_products / speed.step_seconds / limits.int8_products;
  }
  return figures;
}

json Describe(const Options& options, const LoadedModel& model, const Device& device, int threads,
              const Limits& limits) {
  const WeightCounts weights = CountWeights(model.config());
  json result = {
      {"model", options.model},
      {"device", device.name()},
      {"processor", device.description()},
      {"threads", threads},
      {"layers", {{"weights", weights.layers}, {"bytes", model.model().layer_weight_bytes()}}},
      {"head", {{"weights", weights.head}, {"bytes", model.model().head_weight_bytes()}}},
      {"results", json::array()}};
  if (const PackedManifest* manifest = model.manifest()) {
    result["recipe"] = manifest->recipe;
    result["linear_bits_per_weight"] = manifest->linear_bits_per_weight;
  }
  if (limits.read_bytes > 0) {
    result["machine"] = {{"read_bytes_per_second", limits.read_bytes},
                         {"int8_multiply_adds_per_second", limits.int8_products}};
  }
  return result;
}

void PrintHeader(const json& run) {
  std::printf("%s", run["model"].get<std::string>().c_str());
  if (run.contains("recipe")) {
    std::printf(": %s (%.3f bits per weight)", run["recipe"].get<std::string>().c_str(),
                run["linear_bits_per_weight"].get<double>());
  }
  std::printf("\n%s (%s), %d threads", run["device"].get<std::string>().c_str(),
              run["processor"].get<std::string>().c_str(), run["threads"].get<int>());
  if (run.contains("machine")) {
    std::printf("; reads memory at %.1f GB/s, multiplies int8 at %.2f * 10^12/s",
                run["machine"]["read_bytes_per_second"].get<double>() / 1e9,
                run["machine"]["int8_multiply_adds_per_second"].get<double>() / 1e12);
  }
  for (const char* part : {"layers", "head"}) {
    std::printf("%s%s %.1f M weights in %.1f MB", part[0] == 'l' ? "\n" : ", ", part,
                run[part]["weights"].get<double>() / 1e6, run[part]["bytes"].get<double>() / 1e6);
  }
  std::printf("\n\n%5s %6s %9s %8s %9s %8s %6s %10s %6s %9s %8s\n", "batch", "prompt", "prompt/s",
              "of peak", "decode/s", "ms/step", "head", "weights/s", "GB/s", "of memory",
              "of peak");
}

// "-" where a figure is missing.
std::string Cell(const json& figures, const char* name, const char* unit, double scale) {
  if (!figures.contains(name)) return "-";
  const double value = figures[name].get<double>() * scale;
  return absl::StrCat(absl::StrFormat(value < 10 ? "%.2f" : "%.1f", value), unit);
}

void PrintFigures(const json& f) {
  std::string head = "-";
  if (f.contains("head_seconds")) {
    head = absl::StrFormat("%.1f%%",
                           100 * f["head_seconds"].get<double>() / f["step_seconds"].get<double>());
  }
  std::printf("%5u %6u %9s %8s %9s %8s %6s %10s %6s %9s %8s\n", f["batch"].get<uint32_t>(),
              f["prompt_tokens"].get<uint32_t>(),
              Cell(f, "prompt_tokens_per_second", "", 1).c_str(),
              Cell(f, "prompt_share_of_int8_peak", "%", 100).c_str(),
              Cell(f, "generated_tokens_per_second", "", 1).c_str(),
              Cell(f, "step_seconds", "", 1e3).c_str(), head.c_str(),
              Cell(f, "linear_weights_per_second", "G", 1e-9).c_str(),
              Cell(f, "weight_bytes_per_second", "", 1e-9).c_str(),
              Cell(f, "share_of_read_bandwidth", "%", 100).c_str(),
              Cell(f, "share_of_int8_peak", "%", 100).c_str());
  std::fflush(stdout);
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> Load(const std::string& path,
                                                        const Device& device, ThreadTeam& team) {
  if (std::filesystem::exists(std::filesystem::path(path) / kManifestFile)) {
    return LoadedModel::LoadPacked(path, Verify::kHeader, device, team);
  }
  if (device.name() != "cpu") {
    return absl::UnimplementedError("source models run on the CPU alone");
  }
  return LoadedModel::LoadSource(path, team);
}

absl::Status Run(const Options& options) {
  ThreadTeam team(options.threads);
  QL_ASSIGN_OR_RETURN(const DeviceChoice choice, ChooseDevice(options.device));
  QL_ASSIGN_OR_RETURN(const auto model, Load(options.model, *choice.device, team));
  Limits limits;
  std::function<double()> read_bandwidth;
  if (choice.device->name() == "cpu") {
    read_bandwidth = [&] { return MeasureReadBandwidth(team); };
    limits = {.read_bytes = read_bandwidth(), .int8_products = MeasureInt8Peak(team)};
  }
  json run = Describe(options, *model, *choice.device, team.size(), limits);
  if (!options.json) PrintHeader(run);
  for (const uint32_t batch : options.batches) {
    for (const uint32_t prompt : options.prompts) {
      const SpeedOptions speed_options = {.batch = batch,
                                          .prompt = prompt,
                                          .generate = options.generate,
                                          .chunk = options.chunk,
                                          .kv = options.f32_kv ? KvElement::kF32 : KvElement::kF16,
                                          .read_bandwidth = read_bandwidth};
      QL_ASSIGN_OR_RETURN(const ModelSpeed speed, MeasureModelSpeed(*model, speed_options));
      run["results"].push_back(Figures(*model, limits, speed_options, speed));
      if (!options.json) PrintFigures(run["results"].back());
    }
  }
  if (options.json) std::printf("%s\n", run.dump().c_str());
  return absl::OkStatus();
}

constexpr char kFooter[] =
    "prompt/s and decode/s are tokens per second of all sequences together. Decoding begins after\n"
    "the prompt; its median step counts. head is its share of a step; weights/s are those of the\n"
    "decoder's linear layers, once for each sequence, in the rest of the step; GB/s are bytes of\n"
    "all weights, read once a step. Shares are of the memory's bandwidth, measured right before\n"
    "and after decoding, and of the processor's int8 multiply-adds, measured first, with the same\n"
    "threads.\n\n"
    "Exit status: 0 done, 1 failed, 2 wrong command line.";

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures how fast a model processes prompts and generates, in this process.",
               "quantloom bench");
  app.footer(kFooter);
  app.add_option("MODEL", options.model, "Packed directory, Hugging Face directory or GGUF file")
      ->required();
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0: all that this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--prompt", options.prompts, "Prompt tokens of a sequence; several: 128,512")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--generate", options.generate, "Generated tokens of a sequence; 0: none")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--batch", options.batches, "Sequences side by side; several: 1,8")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--chunk", options.chunk, "Prompt tokens of a sequence in one step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_flag("--f32-kv", options.f32_kv, "Keys and values in fp32 instead of fp16");
  app.add_flag("--json", options.json, "Results as one JSON object");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "quantloom bench: %s\nSee 'quantloom bench --help'.\n", error.what());
    return 2;
  }
  const absl::Status status = Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) { return quantloom::Main(argc, argv); }
