// The text that a model is calibrated on, as token windows: each is run from an empty context.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/loaded_model.h"

namespace quantloom {

struct CalibrationText {
  std::vector<std::vector<int32_t>> windows;  // none is empty

  uint64_t tokens() const;
  // SHA-256 over the token ids (little-endian int32), window by window.
  std::string Digest() const;
};

// Cuts `tokens` into windows of `window_tokens`; the last may be shorter.
CalibrationText CutIntoWindows(absl::Span<const int32_t> tokens, size_t window_tokens);

// Lets the model write its own calibration text: sequences that begin with a random token (after
// BOS where the model has one) and are continued by sampling at temperature 1, about `tokens`
// tokens in all, a window each. Deterministic in (model, tokens, seed). `progress` is called
// between steps with the share done, 0..1; a non-OK status ends the sampling.
absl::StatusOr<CalibrationText> SampleCalibrationText(
    const LoadedModel& model, uint32_t tokens, uint64_t seed,
    const std::function<absl::Status(double fraction)>& progress);

}  // namespace quantloom
