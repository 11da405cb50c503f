// Column importances of linear layers: the mean square of each input feature over calibration
// tokens, the diagonal of the layer's Hessian H = E[x x^T] (ICQuant, arXiv 2505.00850, section 3).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/loaded_model.h"

namespace quantloom {

struct CalibrationStatistics {
  // Tensor name of a linear layer or of the output head -> E[x_c^2] per input column.
  std::map<std::string, std::vector<float>> importance;
  uint64_t tokens = 0;
  // SHA-256 over the token ids (little-endian int32) in the order they were seen.
  std::string tokens_sha256;
};

// Called between pieces of work with the share done, 0..1; a non-OK status ends the calibration.
using CalibrationProgress = std::function<absl::Status(double fraction)>;

// Runs the model over `tokens` in windows of `window_tokens` from an empty context each. The result
// depends on model and tokens alone (fixed order of additions, in double).
absl::StatusOr<CalibrationStatistics> CalibrateOnTokens(const LoadedModel& model,
                                                        absl::Span<const int32_t> tokens,
                                                        size_t window_tokens,
                                                        const CalibrationProgress& progress);

// Lets the model write its own calibration text: sequences that begin with a random token (after
// BOS where the model has one) and are continued by sampling at temperature 1, about `tokens`
// tokens in all. Deterministic in (model, tokens, seed).
absl::StatusOr<CalibrationStatistics> CalibrateOnSamples(const LoadedModel& model, uint32_t tokens,
                                                         uint64_t seed,
                                                         const CalibrationProgress& progress);

}  // namespace quantloom
