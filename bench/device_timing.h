// Times of a device's work, and the table that they are written to.
//
// A time is that of a node of a CUDA graph of many, which take copies of what they read in turn,
// more than the L2 cache holds; rounds go over what is compared in turn, and medians are kept.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cuda/cuda_context.h"

namespace quantloom {

struct MeasureOptions {
  uint32_t nodes = 100;               // of a graph
  uint32_t rounds = 9;                // after one that is not counted
  uint64_t rotate_bytes = 192 << 20;  // all copies together, at least
};

// A line of the table; 0 for what does not apply or was not measured.
struct DeviceTiming {
  std::string kind;  // "sweep", "product", "operator", "decode", "prefill"
  std::string name;  // of a form or an operator
  std::string shape;
  uint32_t tokens = 0;    // rows of the batch
  uint64_t bytes = 0;     // of weights or cache, read once
  double operations = 0;  // multiplications and additions
  double seconds = 0;
  double sweep_seconds = 0;  // of reading as many bytes
  double node_seconds = 0;   // t0, of an empty node
  double half_seconds = 0;   // of the same with fp16 weights: by cuBLAS, or the whole model
  double wall_seconds = 0;   // of a step, what the host does and waits for included

  double bytes_per_second() const;
  // Of the bandwidth that the sweep has, after t0.
  double bandwidth_share() const;
};

// Tab-separated, in this order, times in microseconds, rates in 10^9; empty for what is 0.
std::string TimingHeader();
std::string TimingLine(const DeviceTiming& timing);

// Graphs to compare.
class GraphTimer {
 public:
  GraphTimer(CudaContext& context, const MeasureOptions& options)
      : context_(context), options_(options) {}
  ~GraphTimer();
  GraphTimer(const GraphTimer&) = delete;
  GraphTimer& operator=(const GraphTimer&) = delete;

  // Launches one node's work on the context's stream. Null, or what is wrong.
  using Work = std::function<const char*(uint32_t node)>;
  absl::Status Add(const Work& work);
  // An empty node; a sweep over copies, each of `bytes` (a multiple of 16).
  absl::Status AddNothing();
  absl::Status AddSweep(const std::vector<const void*>& copies, uint64_t bytes);

  // Seconds of a node of each graph, in the order in which they were added.
  absl::StatusOr<std::vector<double>> Run();

 private:
  CudaContext& context_;
  MeasureOptions options_;
  std::vector<cuda::Graph> graphs_;
  CudaMemory found_;  // of sweeps
};

// Copies of something that together leave the L2 cache no chance.
inline uint64_t RotatedCopies(const MeasureOptions& options, uint64_t bytes) {
  return options.rotate_bytes / bytes + 2;
}

}  // namespace quantloom
