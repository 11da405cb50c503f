// How fast a model runs, through the forward pass that the server uses.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/loaded_model.h"

namespace quantloom {

struct SpeedOptions {
  uint32_t batch = 1;       // sequences side by side
  uint32_t prompt = 512;    // tokens of each sequence before the first generated one, at least 1
  uint32_t generate = 128;  // generated tokens of each sequence; 0: none
  uint32_t chunk = 512;     // prompt tokens of each sequence a step
  KvElement kv = KvElement::kF16;
  // Bytes per second that memory is read at; null: not asked. Asked right before and right after
  // generation, since a virtual machine's memory may be twice as fast a second later.
  std::function<double()> read_bandwidth = nullptr;
};

struct ModelSpeed {
  double prompt_seconds = 0;  // all sequences' prompts
  // Of the median generating step: everything, and all but the output head (decoder layers,
  // embedding). Zero where nothing was generated.
  double step_seconds = 0;
  double layers_seconds = 0;
  double read_bandwidth = 0;  // the mean of both answers, bytes per second
};

// Runs tokens that mean nothing. Every fourth generating step is followed by one more without
// logits, timed apart. INVALID_ARGUMENT when the context is too short, and the backend's errors.
absl::StatusOr<ModelSpeed> MeasureModelSpeed(const LoadedModel& model, const SpeedOptions& options);

// Weights of the decoder's linear layers, and of the output head.
struct WeightCounts {
  uint64_t layers = 0;
  uint64_t head = 0;
};
WeightCounts CountWeights(const ModelConfig& config);

}  // namespace quantloom
