// Products on a CUDA device, in every form and over the shapes of 7B to 70B models, beside a sweep
// that reads the same bytes: device_bench --help
#include <cstdio>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/device_products.h"
#include "core/base/file.h"
#include "core/base/status.h"
#include "engine/cuda/cuda_library.h"

namespace quantloom {
namespace {

constexpr std::pair<uint32_t, uint32_t> kShapes[] = {
    {4096, 4096}, {4096, 14336}, {14336, 4096}, {8192, 8192}, {8192, 28672}};

struct Arguments {
  int device = 0;
  std::string filter = ".";
  std::vector<uint32_t> tokens = {1, 8, 16, 64};
  std::string json;
  MeasureOptions measure;
};

void Print(const ProductTiming& t) {
  std::printf("%-14s %6u %6u %6u %10.2f %10.2f %10.2f %10.1f %10.1f %8.1f\n", t.form.c_str(),
              t.rows, t.cols, t.tokens, t.seconds * 1e6, t.sweep_seconds * 1e6,
              t.node_seconds * 1e6, t.weights_per_second() * 1e-9, t.bytes_per_second() * 1e-9,
              100 * t.bandwidth_share());
  std::fflush(stdout);
}

absl::Status Run(const Arguments& arguments) {
  QL_ASSIGN_OR_RETURN(const cuda::DeviceLibrary* const library, LoadCudaLibrary());
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<cuda::DeviceRuntime> runtime,
                      library->open_device(arguments.device));
  const cuda::DeviceProperties& device = runtime->properties();
  std::printf("%s, compute capability %d.%d\n", device.name.c_str(), device.compute_major,
              device.compute_minor);
  std::printf("%-14s %6s %6s %6s %10s %10s %10s %10s %10s %8s\n", "form", "rows", "cols", "tokens",
              "us", "sweep us", "node us", "Gweight/s", "GB/s", "share %");
  const std::regex filter(arguments.filter);
  nlohmann::json products = nlohmann::json::array();
  for (const auto& [rows, cols] : kShapes) {
    for (const DeviceForm& form : DeviceForms()) {
      if (!std::regex_search(form.name, filter)) continue;
      QL_ASSIGN_OR_RETURN(const std::vector<ProductTiming> timings,
                          MeasureProducts(*runtime, *library->kernels, form, rows, cols,
                                          arguments.tokens, arguments.measure));
      for (const ProductTiming& timing : timings) {
        Print(timing);
        products.push_back(ToJson(timing));
      }
    }
  }
  if (arguments.json.empty()) return absl::OkStatus();
  return WriteFileAtomically(
      arguments.json,
      nlohmann::json{{"device", device.name}, {"products", std::move(products)}}.dump(1));
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  quantloom::Arguments arguments;
  CLI::App app("Times products on a CUDA device beside a sweep that reads the same bytes");
  app.add_option("--device", arguments.device, "CUDA device")->capture_default_str();
  app.add_option("--filter", arguments.filter, "Regular expression for forms, as in icquant-2")
      ->capture_default_str();
  app.add_option("--tokens", arguments.tokens, "Batch sizes")
      ->check(CLI::Range(1, 4096))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--rounds", arguments.measure.rounds, "Rounds to take the median of")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--nodes", arguments.measure.nodes, "Nodes of a graph")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--json", arguments.json, "File to write results to");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = quantloom::Run(arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "device_bench: %s\n", status.ToString().c_str());
  return 1;
}
