#include "bench/device_products.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

using cuda::DeviceRuntime;
using Work = std::function<const char*(uint32_t node)>;

absl::StatusOr<cuda::Graph> Record(DeviceRuntime& runtime, cuda::Stream stream, uint32_t nodes,
                                   const Work& work) {
  QL_RETURN_IF_ERROR(runtime.BeginCapture(stream));
  const char* error = nullptr;
  for (uint32_t node = 0; node < nodes && error == nullptr; ++node) error = work(node);
  absl::StatusOr<cuda::Graph> graph = runtime.EndCapture(stream);
  if (error == nullptr) return graph;
  if (graph.ok()) runtime.Destroy(*graph);
  return absl::InternalError(error);
}

// Seconds of a node of each graph: medians over rounds that take the graphs in turn.
absl::StatusOr<std::vector<double>> Time(DeviceRuntime& runtime, cuda::Stream stream,
                                         const std::vector<cuda::Graph>& graphs,
                                         const MeasureOptions& options) {
  QL_ASSIGN_OR_RETURN(const cuda::Event begin, runtime.CreateEvent());
  absl::Cleanup free_begin = [&] { runtime.Destroy(begin); };
  QL_ASSIGN_OR_RETURN(const cuda::Event end, runtime.CreateEvent());
  absl::Cleanup free_end = [&] { runtime.Destroy(end); };
  std::vector<std::vector<double>> times(graphs.size());
  for (uint32_t round = 0; round <= options.rounds; ++round) {
    for (size_t i = 0; i < graphs.size(); ++i) {
      QL_RETURN_IF_ERROR(runtime.Record(begin, stream));
      QL_RETURN_IF_ERROR(runtime.Launch(graphs[i], stream));
      QL_RETURN_IF_ERROR(runtime.Record(end, stream));
      QL_RETURN_IF_ERROR(runtime.Wait(end));
      QL_ASSIGN_OR_RETURN(const double milliseconds, runtime.Milliseconds(begin, end));
      if (round > 0) times[i].push_back(milliseconds * 1e-3 / options.nodes);
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& of_graph : times) {
    const auto middle = of_graph.begin() + static_cast<int64_t>(of_graph.size() / 2);
    std::nth_element(of_graph.begin(), middle, of_graph.end());
    medians.push_back(*middle);
  }
  return medians;
}

}  // namespace

absl::StatusOr<std::vector<ProductTiming>> MeasureProducts(
    DeviceRuntime& runtime, const cuda::KernelTable& kernels, const DeviceForm& form, uint32_t rows,
    uint32_t cols, const std::vector<uint32_t>& tokens, const MeasureOptions& options) {
  QL_ASSIGN_OR_RETURN(const cuda::Stream stream, runtime.CreateStream());
  absl::Cleanup free_stream = [&] { runtime.Destroy(stream); };
  std::vector<void*> memory;
  std::vector<cuda::Graph> graphs;
  absl::Cleanup free_all = [&] {
    for (const cuda::Graph graph : graphs) runtime.Destroy(graph);
    for (void* const part : memory) runtime.Free(part);
  };
  const auto allocate = [&](size_t bytes) -> absl::StatusOr<void*> {
    QL_ASSIGN_OR_RETURN(void* const part, runtime.Allocate(bytes));
    memory.push_back(part);
    return part;
  };

  const cuda::MatrixImage image = RandomImage(form, rows, cols, /*seed=*/1);
  const size_t bytes = image.bytes.size() / 16 * 16;
  const size_t copies = options.rotate_bytes / bytes + 2;
  std::vector<void*> copy;
  std::vector<cuda::MatrixView> views;
  for (size_t i = 0; i < copies; ++i) {
    QL_ASSIGN_OR_RETURN(void* const at, allocate(image.bytes.size()));
    QL_RETURN_IF_ERROR(
        i == 0 ? runtime.CopyToDevice(at, image.bytes.data(), image.bytes.size(), stream)
               : runtime.CopyOnDevice(at, copy[0], image.bytes.size(), stream));
    copy.push_back(at);
    views.push_back(image.ViewAt(at));
  }
  QL_ASSIGN_OR_RETURN(void* const found, allocate(sizeof(uint32_t)));

  const auto record = [&](const Work& work) -> absl::Status {
    QL_ASSIGN_OR_RETURN(const cuda::Graph graph, Record(runtime, stream, options.nodes, work));
    graphs.push_back(graph);
    return absl::OkStatus();
  };
  QL_RETURN_IF_ERROR(record([&](uint32_t) { return kernels.launch_nothing(stream); }));
  QL_RETURN_IF_ERROR(record([&](uint32_t node) {
    return kernels.read_sweep(copy[node % copies], bytes, /*key=*/0x9E3779B9,
                              static_cast<uint32_t*>(found), stream);
  }));
  for (const uint32_t count : tokens) {
    const cuda::ActivationForm activation_form = cuda::ActivationFormOf(image.view);
    QL_ASSIGN_OR_RETURN(void* const x, allocate(size_t{count} * cols * sizeof(float)));
    const std::vector<float> values(size_t{count} * cols, 0.5f);
    QL_RETURN_IF_ERROR(
        runtime.CopyToDevice(x, values.data(), values.size() * sizeof(float), stream));
    QL_ASSIGN_OR_RETURN(void* const prepared,
                        allocate(kernels.activation_bytes(activation_form, count, cols)));
    QL_ASSIGN_OR_RETURN(void* const y, allocate(size_t{count} * rows * sizeof(float)));
    const cuda::Activations activations =
        kernels.activations_at(activation_form, count, cols, prepared);
    const char* const error =
        kernels.prepare_activations(static_cast<const float*>(x), cols, cols, activations, stream);
    if (error != nullptr) return absl::InternalError(error);
    QL_RETURN_IF_ERROR(runtime.Synchronize(stream));
    QL_RETURN_IF_ERROR(record([&](uint32_t node) {
      return kernels.multiply(views[node % copies], activations, static_cast<float*>(y), rows,
                              stream);
    }));
  }

  QL_ASSIGN_OR_RETURN(const std::vector<double> times, Time(runtime, stream, graphs, options));
  std::vector<ProductTiming> timings;
  for (size_t i = 0; i < tokens.size(); ++i) {
    timings.push_back({.form = form.name,
                       .rows = rows,
                       .cols = cols,
                       .tokens = tokens[i],
                       .bytes = bytes,
                       .seconds = times[i + 2],
                       .sweep_seconds = times[1],
                       .node_seconds = times[0]});
  }
  return timings;
}

nlohmann::json ToJson(const ProductTiming& timing) {
  return {{"form", timing.form},
          {"rows", timing.rows},
          {"cols", timing.cols},
          {"tokens", timing.tokens},
          {"bytes", timing.bytes},
          {"seconds", timing.seconds},
          {"sweep_seconds", timing.sweep_seconds},
          {"node_seconds", timing.node_seconds},
          {"weights_per_second", timing.weights_per_second()},
          {"bytes_per_second", timing.bytes_per_second()},
          {"bandwidth_share", timing.bandwidth_share()}};
}

}  // namespace quantloom
