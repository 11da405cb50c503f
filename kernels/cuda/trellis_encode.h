// Encodes tiles for trellis-coded quantization (core/codec/trellis.h): the same search in the same
// integers as on the host, so the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// All pointers are into device memory.
struct TrellisEncoding {
  const int16_t* values;   // [weights a step, 2^16]: TrellisIntegers::Value of each state's
  const int16_t* targets;  // [tiles, 256]: TrellisIntegers::Target
  const uint8_t* ignored;  // [tiles, 256], not 0 where the value does not matter; may be null
  uint8_t* choices;        // scratch, TrellisChoiceBytes for each block
  uint32_t* bits;          // [tiles, 4 half_bits]: the tiles' bits, from the least significant on
  uint32_t tiles;
  uint32_t half_bits;         // 2 K
  uint32_t weights_per_step;  // V, 1 or 2
};

// Scratch of a block, which encodes one tile after the other.
size_t TrellisChoiceBytes(uint32_t half_bits, uint32_t weights_per_step);

// Shared memory of a block: 132 KiB at 1 and 1.5 bits, half of it at 2 and 2.5, and so on.
size_t TrellisSharedBytes(uint32_t half_bits, uint32_t weights_per_step);

// Null, or why the kernel could not be launched.
const char* EncodeTrellisTiles(const TrellisEncoding& encoding, uint32_t blocks, Stream stream);

}  // namespace quantloom::cuda
