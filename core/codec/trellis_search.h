// The search for trellis tiles' bits somewhere else than on the host's threads: on a GPU. The
// engine has one (Backend::trellis_search) and hands it to codecs with what they are to encode
// (EncodeInput); it finds the bits that TileEncoder finds, so nothing but time depends on it.
//
// Thread-safety: one thread at a time.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/codec/trellis.h"

namespace quantloom {

class TrellisSearch {
 public:
  virtual ~TrellisSearch() = default;

  // Whether the device can search in this format; it may lack memory near its processors.
  virtual bool Takes(const TrellisFormat& format) const = 0;

  // Writes the bits of `targets.size()` / 256 tiles to `bits`, format.tile_bytes() each. `targets`
  // are TrellisIntegers::Target, [tiles, 256]; `ignored`, of the same shape or empty, is not 0
  // where the value does not matter. RESOURCE_EXHAUSTED when the device's memory cannot be had,
  // INTERNAL when the device fails.
  virtual absl::Status Run(const TrellisFormat& format, absl::Span<const int16_t> targets,
                           absl::Span<const uint8_t> ignored, absl::Span<uint8_t> bits) = 0;
};

}  // namespace quantloom
