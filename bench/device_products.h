// Times of products on a device, beside those of a sweep that reads the same bytes.
//
// A measurement is one launch of a CUDA graph of many nodes that take copies of a matrix in turn,
// more than the L2 cache holds; rounds go over what is compared in turn, and medians are kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/device_matrices.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/kernel_table.h"
#include "nlohmann/json.hpp"

namespace quantloom {

struct MeasureOptions {
  uint32_t nodes = 100;               // of a graph
  uint32_t rounds = 9;                // after one that is not counted
  uint64_t rotate_bytes = 192 << 20;  // all copies of a matrix together, at least
};

struct ProductTiming {
  std::string form;
  uint32_t rows = 0, cols = 0, tokens = 0;
  uint64_t bytes = 0;  // of the matrix
  double seconds = 0;
  double sweep_seconds = 0;  // of reading as many bytes
  double node_seconds = 0;   // t0, of an empty node

  double weights_per_second() const { return double{1} * rows * cols / seconds; }
  double bytes_per_second() const { return static_cast<double>(bytes) / seconds; }
  // Of the bandwidth that the sweep has, after t0.
  double bandwidth_share() const {
    return (sweep_seconds - node_seconds) / (seconds - node_seconds);
  }
};

// For each of `tokens`. RESOURCE_EXHAUSTED where the device lacks the memory.
absl::StatusOr<std::vector<ProductTiming>> MeasureProducts(cuda::DeviceRuntime& runtime,
                                                           const cuda::KernelTable& kernels,
                                                           const DeviceForm& form, uint32_t rows,
                                                           uint32_t cols,
                                                           const std::vector<uint32_t>& tokens,
                                                           const MeasureOptions& options);

nlohmann::json ToJson(const ProductTiming& timing);

}  // namespace quantloom
