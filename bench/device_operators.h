// Times of a model's operators other than products: attention, norms, rotation, SwiGLU, sums,
// Hadamard transforms, conversion of activations, embedding.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/device_timing.h"
#include "bench/device_under_test.h"
#include "core/format/model_config.h"

namespace quantloom {

// Attention of batches of one token each, for every pair of the two lists, and of a prompt.
struct AttentionCases {
  std::vector<uint32_t> batches;
  std::vector<uint32_t> contexts;  // positions that a token attends to
  uint32_t prompt = 0;             // tokens
};
// In one layer of the model. Time beside a sweep's of as many bytes as keys and values have.
absl::StatusOr<std::vector<DeviceTiming>> MeasureAttention(const DeviceUnderTest& device,
                                                           const ModelConfig& config,
                                                           const AttentionCases& cases,
                                                           const MeasureOptions& options);

// The others, each once in a layer (or model), for each number of rows. What they read is in the
// L2 cache, as in a model.
absl::StatusOr<std::vector<DeviceTiming>> MeasureRowOperators(const DeviceUnderTest& device,
                                                              const ModelConfig& config,
                                                              const std::vector<uint32_t>& rows,
                                                              const MeasureOptions& options);

}  // namespace quantloom
