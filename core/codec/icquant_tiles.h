// ICQuant on top of the tile codes, `icquant:inner=trellis` and `inner=e8p`: outlier coding and
// incoherence processing as options of one codec, so that the two can be compared and combined.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/codec/codec.h"

namespace quantloom {

bool IsTileInner(const Recipe& recipe);

// As CodecRegistration::create and open, for recipes whose inner quantizer is a tile code.
absl::StatusOr<std::unique_ptr<Codec>> CreateIcquantTiles(const Recipe& recipe);
absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenIcquantTiles(const Recipe& recipe, uint64_t rows,
                                                               uint64_t cols,
                                                               absl::Span<const PlaneView> planes);

}  // namespace quantloom
