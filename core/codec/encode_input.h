// What every codec checks before it encodes.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/codec/codec.h"

namespace quantloom {

// Larger weights are refused: scales, levels and their products stay finite below this.
inline constexpr float kMaxWeight = 0x1p126f;

// Returns the largest |w|. INVALID_ARGUMENT, beginning with the codec's name, for sizes that
// contradict each other or are too large, for a weight that is not finite or above kMaxWeight (row
// and column are named), and for an importance that is negative or not finite.
absl::StatusOr<float> CheckEncodeInput(absl::string_view codec, const EncodeInput& input,
                                       ThreadTeam& team);

}  // namespace quantloom
