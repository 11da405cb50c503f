// How far a packed model is from its source on a text: perplexity of both, KL divergence, top-1
// agreement.
//
// The text is cut into windows without overlap, each run from an empty context; the tokens of a
// window's second half are scored. No BOS is added unless the tokenizer's configuration does.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "engine/loaded_model.h"
#include "engine/quantize/quantize_model.h"

namespace quantloom {

// Compares the models on `tokens`, both run on `team`. `windows` 0: all whole windows.
// INVALID_ARGUMENT when the text is shorter than one window. `progress` is called between windows
// with the share done; a non-OK status ends the evaluation. Fills the metrics' numbers; names and
// digests are the caller's.
absl::StatusOr<QualityMetrics> CompareModels(const LoadedModel& source, const LoadedModel& packed,
                                             absl::Span<const int32_t> tokens, uint32_t windows,
                                             uint32_t window_tokens, ThreadTeam& team,
                                             const std::function<absl::Status(double)>& progress);

}  // namespace quantloom
