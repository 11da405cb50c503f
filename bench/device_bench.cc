// What a CUDA device makes of the product's kernels and models: device_bench --help
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/device_models.h"
#include "bench/device_operators.h"
#include "bench/device_products.h"
#include "bench/device_under_test.h"
#include "core/base/file.h"
#include "core/base/status.h"
#include "engine/cuda/cuda_library.h"

namespace quantloom {
namespace {

// Rows and columns of linear layers of 7B to 70B models.
constexpr std::pair<uint32_t, uint32_t> kShapes[] = {{4096, 4096}, {14336, 4096}, {4096, 14336},
                                                     {8192, 8192}, {28672, 8192}, {8192, 28672}};

const std::vector<std::string> kSuites = {"sweep", "products", "operators", "models"};

struct Arguments {
  int device = 0;
  std::vector<std::string> suites = kSuites;
  std::string forms = ".";
  std::string shapes = ".";
  std::string models = ".";
  std::string model_forms = "^(fp16|icquant-[234]|mul1-[234]|quip-2)$";
  std::vector<uint32_t> tokens = {1, 4, 16, 512};
  std::vector<uint32_t> batches = {1, 4, 16};
  std::vector<uint32_t> contexts = {512, 4096};
  MeasureOptions measure;
  ModelCases model;
  std::string table;
  int seconds = 3600;
};

// The table, on the standard output and in a file that is whole after every measurement.
class Report {
 public:
  explicit Report(const Arguments& arguments) : path_(arguments.table) { Write(TimingHeader()); }

  void Comment(const std::string& text) { Write(absl::StrCat("# ", text)); }
  void Add(const std::vector<DeviceTiming>& timings) {
    for (const DeviceTiming& timing : timings) Write(TimingLine(timing));
  }
  absl::Status Save() const {
    return path_.empty() ? absl::OkStatus() : WriteFileAtomically(path_, text_);
  }

 private:
  void Write(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    absl::StrAppend(&text_, line, "\n");
  }

  std::string path_;
  std::string text_;
};

class Run {
 public:
  Run(const Arguments& arguments, const cuda::DeviceLibrary& library)
      : arguments_(arguments),
        library_(library),
        report_(arguments),
        end_(absl::Now() + absl::Seconds(arguments.seconds)) {}

  absl::Status All() {
    QL_ASSIGN_OR_RETURN(const DeviceUnderTest device, Open());
    const cuda::DeviceProperties& properties = device.context().runtime().properties();
    report_.Comment(absl::StrCat(properties.name, ", compute capability ", properties.compute_major,
                                 ".", properties.compute_minor));
    // Always: models are compared with it.
    QL_RETURN_IF_ERROR(Sweeps(device));
    if (Wants("products")) QL_RETURN_IF_ERROR(Products(device));
    if (Wants("operators")) QL_RETURN_IF_ERROR(Operators(device));
    return Wants("models") ? Models() : absl::OkStatus();
  }

 private:
  bool Wants(const std::string& suite) const {
    return std::count(arguments_.suites.begin(), arguments_.suites.end(), suite) > 0;
  }
  absl::StatusOr<DeviceUnderTest> Open() {
    QL_ASSIGN_OR_RETURN(auto runtime, library_.open_device(arguments_.device));
    return DeviceUnderTest::Create(std::move(runtime), *library_.kernels, team_);
  }

  using Measured = absl::StatusOr<std::vector<DeviceTiming>>;
  // Reports what is measured. What the device has no memory for, or the run no time, is left out.
  absl::Status Take(const std::string& what, const std::function<Measured()>& measure) {
    if (absl::Now() > end_) {
      report_.Comment(absl::StrCat(what, ": left out, time is up"));
      return report_.Save();
    }
    const Measured timings = measure();
    if (timings.ok()) {
      report_.Add(*timings);
    } else if (absl::IsResourceExhausted(timings.status())) {
      report_.Comment(absl::StrCat(what, ": left out, ", timings.status().message()));
    } else {
      return Annotate(timings.status(), what);
    }
    return report_.Save();
  }

  absl::Status Sweeps(const DeviceUnderTest& device) {
    const std::vector<uint64_t> sizes =
        Wants("sweep") ? std::vector<uint64_t>{1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20}
                       : std::vector<uint64_t>{256 << 20};
    return Take("sweeps", [&]() -> Measured {
      QL_ASSIGN_OR_RETURN(std::vector<DeviceTiming> timings,
                          MeasureSweeps(device.context(), sizes, arguments_.measure));
      bytes_per_second_ = timings.back().bytes_per_second();
      return timings;
    });
  }

  absl::Status Products(const DeviceUnderTest& device) {
    const std::regex forms(arguments_.forms);
    const std::regex shapes(arguments_.shapes);
    const auto library = library_.open_dense_library(arguments_.device);
    if (!library.ok()) report_.Comment(std::string(library.status().message()));
    for (const auto& [rows, cols] : kShapes) {
      const std::string shape = absl::StrCat(rows, "x", cols);
      if (!std::regex_search(shape, shapes)) continue;
      std::map<uint32_t, double> halves;  // cuBLAS's times by tokens
      if (library.ok()) {
        QL_RETURN_IF_ERROR(Take(absl::StrCat("cublas ", shape), [&, rows = rows, cols = cols] {
          const Measured timings =
              MeasureLibraryProducts(device.context(), device.matrices(), **library, rows, cols,
                                     arguments_.tokens, arguments_.measure);
          if (timings.ok()) {
            for (const DeviceTiming& timing : *timings) halves[timing.tokens] = timing.seconds;
          }
          return timings;
        }));
      }
      for (const DeviceForm& form : DeviceForms()) {
        if (!std::regex_search(form.name, forms)) continue;
        QL_RETURN_IF_ERROR(
            Take(absl::StrCat(form.name, " ", shape), [&, rows = rows, cols = cols]() -> Measured {
              QL_ASSIGN_OR_RETURN(std::vector<DeviceTiming> timings,
                                  MeasureProducts(device.context(), device.matrices(), form, rows,
                                                  cols, arguments_.tokens, arguments_.measure));
              for (DeviceTiming& timing : timings) timing.half_seconds = halves[timing.tokens];
              return timings;
            }));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Operators(const DeviceUnderTest& device) {
    for (const NamedConfig& model : LlamaShapes()) {
      if (model.name != "llama-3-8b" && model.name != "llama-3-70b") continue;
      QL_RETURN_IF_ERROR(Take(absl::StrCat("operators of ", model.name), [&] {
        return MeasureRowOperators(device, model.config, arguments_.tokens, arguments_.measure);
      }));
      QL_RETURN_IF_ERROR(Take(absl::StrCat("attention of ", model.name), [&] {
        return MeasureAttention(device, model.config,
                                {arguments_.batches, arguments_.contexts, arguments_.model.prompt},
                                arguments_.measure);
      }));
    }
    return absl::OkStatus();
  }

  absl::Status Models() {
    const std::regex names(arguments_.models);
    const std::regex forms(arguments_.model_forms);
    ModelCases cases = arguments_.model;
    cases.batches = arguments_.batches;
    for (const NamedConfig& model : LlamaShapes()) {
      if (!std::regex_search(model.name, names)) continue;
      // Times in fp16, which comes first, by kind and tokens.
      std::map<std::pair<std::string, uint32_t>, double> halves;
      for (const DeviceForm& form : DeviceForms()) {
        if (!std::regex_search(form.name, forms)) continue;
        QL_RETURN_IF_ERROR(Take(absl::StrCat(form.name, " ", model.name), [&]() -> Measured {
          // Anew: what a model could not have is not to be held against the next one.
          QL_ASSIGN_OR_RETURN(const DeviceUnderTest device, Open());
          QL_ASSIGN_OR_RETURN(std::vector<DeviceTiming> timings,
                              MeasureModel(device, model, form, bytes_per_second_, cases));
          for (DeviceTiming& timing : timings) {
            double& half = halves[{timing.kind, timing.tokens}];
            if (form.name == "fp16") half = timing.seconds;
            timing.half_seconds = half;
          }
          return timings;
        }));
      }
    }
    return absl::OkStatus();
  }

  const Arguments& arguments_;
  const cuda::DeviceLibrary& library_;
  ThreadTeam team_;
  Report report_;
  absl::Time end_;
  double bytes_per_second_ = 0;
};

absl::Status Measure(const Arguments& arguments) {
  QL_ASSIGN_OR_RETURN(const cuda::DeviceLibrary* const library, LoadCudaLibrary());
  return Run(arguments, *library).All();
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  quantloom::Arguments arguments;
  CLI::App app(
      "Times on a CUDA device, as a table: sweeps that only read; products in every form, beside "
      "a sweep of the same bytes and an empty graph node (t0), as share = (sweep - t0) / (time - "
      "t0), and cuBLAS in fp16 where there is one; a model's other operators; steps of whole "
      "models with random weights");
  const auto list = [](CLI::Option* option) { option->delimiter(',')->capture_default_str(); };
  app.add_option("--device", arguments.device, "CUDA device")->capture_default_str();
  list(app.add_option("--suites", arguments.suites, "What to measure")
           ->check(CLI::IsMember(quantloom::kSuites)));
  app.add_option("--forms", arguments.forms, "Regular expression: forms of products, as icquant-2")
      ->capture_default_str();
  app.add_option("--shapes", arguments.shapes,
                 "Regular expression: shapes of products, rows x columns, as 4096x14336")
      ->capture_default_str();
  app.add_option("--models", arguments.models, "Regular expression: models, as llama-3-8b")
      ->capture_default_str();
  app.add_option("--model-forms", arguments.model_forms,
                 "Regular expression: forms of models' linear layers")
      ->capture_default_str();
  list(app.add_option("--tokens", arguments.tokens, "Rows of products and operators")
           ->check(CLI::Range(1, 4096)));
  list(app.add_option("--batches", arguments.batches, "Sequences of decode steps")
           ->check(CLI::Range(1, 256)));
  list(app.add_option("--contexts", arguments.contexts, "Positions that attention reads")
           ->check(CLI::Range(1, 1 << 20)));
  app.add_option("--context", arguments.model.context, "Positions before a model's decode steps")
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  app.add_option("--prompt", arguments.model.prompt, "Tokens of a prefill; 0: none")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--steps", arguments.model.rounds, "Steps of a model to take the median of")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--rounds", arguments.measure.rounds, "Launches of a graph to take the median of")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--nodes", arguments.measure.nodes, "Nodes of a graph")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--seconds", arguments.seconds, "Begin nothing more after so long")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--table", arguments.table, "File to write the table to (tab-separated)");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = quantloom::Measure(arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "device_bench: %s\n", status.ToString().c_str());
  return 1;
}
