#include "bench/device_timing.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

std::string Figure(double value) { return value == 0 ? "" : absl::StrFormat("%.5g", value); }

double Ratio(double numerator, double denominator) {
  return denominator > 0 ? numerator / denominator : 0;
}

}  // namespace

double DeviceTiming::bytes_per_second() const { return Ratio(static_cast<double>(bytes), seconds); }

double DeviceTiming::bandwidth_share() const {
  return sweep_seconds > 0 ? Ratio(sweep_seconds - node_seconds, seconds - node_seconds) : 0;
}

std::string TimingHeader() {
  return "kind\tname\tshape\ttokens\tbytes\tus\tsweep_us\tt0_us\tGB/s\tshare\tGflop/s\tfp16_us\t"
         "speedup\twall_us\ttokens/s";
}

std::string TimingLine(const DeviceTiming& t) {
  const bool is_step = t.kind == "decode" || t.kind == "prefill";
  const std::vector<std::string> fields = {t.kind,
                                           t.name,
                                           t.shape,
                                           absl::StrCat(t.tokens),
                                           t.bytes == 0 ? "" : absl::StrCat(t.bytes),
                                           Figure(t.seconds * 1e6),
                                           Figure(t.sweep_seconds * 1e6),
                                           Figure(t.node_seconds * 1e6),
                                           Figure(t.bytes_per_second() * 1e-9),
                                           Figure(t.bandwidth_share()),
                                           Figure(Ratio(t.operations, t.seconds) * 1e-9),
                                           Figure(t.half_seconds * 1e6),
                                           Figure(Ratio(t.half_seconds, t.seconds)),
                                           Figure(t.wall_seconds * 1e6),
                                           is_step ? Figure(Ratio(t.tokens, t.wall_seconds)) : ""};
  return absl::StrJoin(fields, "\t");
}

GraphTimer::~GraphTimer() {
  for (const cuda::Graph graph : graphs_) context_.runtime().Destroy(graph);
}

absl::Status GraphTimer::Add(const Work& work) {
  cuda::DeviceRuntime& runtime = context_.runtime();
  QL_RETURN_IF_ERROR(runtime.BeginCapture(context_.stream()));
  const char* error = nullptr;
  for (uint32_t node = 0; node < options_.nodes && error == nullptr; ++node) error = work(node);
  const absl::StatusOr<cuda::Graph> graph = runtime.EndCapture(context_.stream());
  if (graph.ok()) graphs_.push_back(*graph);
  return error == nullptr ? graph.status() : absl::InternalError(error);
}

absl::Status GraphTimer::AddNothing() {
  return Add([&](uint32_t) { return context_.kernels().launch_nothing(context_.stream()); });
}

absl::Status GraphTimer::AddSweep(const std::vector<const void*>& copies, uint64_t bytes) {
  QL_ASSIGN_OR_RETURN(found_, context_.Allocate(sizeof(uint32_t)));
  return Add([&](uint32_t node) {
    return context_.kernels().read_sweep(copies[node % copies.size()], bytes, /*key=*/0x9E3779B9,
                                         found_.as<uint32_t>(), context_.stream());
  });
}

absl::StatusOr<std::vector<double>> GraphTimer::Run() {
  cuda::DeviceRuntime& runtime = context_.runtime();
  QL_ASSIGN_OR_RETURN(const CudaEvent begin, context_.CreateEvent());
  QL_ASSIGN_OR_RETURN(const CudaEvent end, context_.CreateEvent());
  std::vector<std::vector<double>> times(graphs_.size());
  for (uint32_t round = 0; round <= options_.rounds; ++round) {
    for (size_t i = 0; i < graphs_.size(); ++i) {
      QL_RETURN_IF_ERROR(runtime.Record(begin.get(), context_.stream()));
      QL_RETURN_IF_ERROR(runtime.Launch(graphs_[i], context_.stream()));
      QL_RETURN_IF_ERROR(runtime.Record(end.get(), context_.stream()));
      QL_RETURN_IF_ERROR(runtime.Wait(end.get()));
      QL_ASSIGN_OR_RETURN(const double milliseconds, runtime.Milliseconds(begin.get(), end.get()));
      if (round > 0) times[i].push_back(milliseconds * 1e-3 / options_.nodes);
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

}  // namespace quantloom
