// Times of whole models with random weights, on the graph that the server runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/device_timing.h"
#include "bench/device_under_test.h"
#include "core/format/model_config.h"

namespace quantloom {

struct NamedConfig {
  std::string name;
  ModelConfig config;
};

// The shapes of Llama-3.2-1B, Llama-3-8B, Llama-2-7B and Llama-3-70B.
std::vector<NamedConfig> LlamaShapes();

struct ModelCases {
  std::vector<uint32_t> batches;  // sequences that decode a token each
  uint32_t context = 512;         // positions that they attend to
  uint32_t prompt = 512;          // tokens of a prefill; 0: none
  uint32_t rounds = 20;           // steps to take the median of
};

// Linear layers have the form; embedding and head are int8, of fp16 models fp16. Forms that models
// have with incoherence processing get its transforms. Steps are timed on the device and by the
// clock. `bytes_per_second` is the bandwidth that weights are compared with. RESOURCE_EXHAUSTED
// where the device lacks the memory.
absl::StatusOr<std::vector<DeviceTiming>> MeasureModel(const DeviceUnderTest& device,
                                                       const NamedConfig& model,
                                                       const DeviceForm& form,
                                                       double bytes_per_second,
                                                       const ModelCases& cases);

}  // namespace quantloom
