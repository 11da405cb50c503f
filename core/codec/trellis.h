// Trellis-coded quantization of tiles of 256 weights (QTIP, arXiv 2406.11235): the bitshift trellis
// with states of L = 16 bits, tail-biting, so that a tile takes exactly 256 K bits and every tile
// decodes on its own.
//
//   const auto format = TrellisFormat::Create(TrellisCode::kMul1, /*half_bits=*/4);  // K = 2
//   TileEncoder encoder(*format);             // one per thread, reused
//   encoder.Encode(targets, bits, decoded);   // targets = weights / s, see TrellisScaleFactor
//   DecodeTile(*format, bits, decoded);       // the same 256 values
//
// Bit order. The tile's bits form a ring; bit j of the ring is bit j % 8 of byte j / 8, so a
// little-endian word of any size holds consecutive bits from its least significant on. Step s (one
// weight, or the two weights 2s and 2s + 1 of a code with V = 2) decodes the 16 bits of the ring
// that start at Offset(s), the first of them the least significant:
//
//   state_s = ring[Offset(s) .. Offset(s) + 15],   values = f(state_s)
//
// Offset(s) = floor(s K V), so one 32-bit load at the right byte, a shift and a mask give a state,
// the ring's end aside. From s to s + 1 a state loses its K V lowest bits and gains as many on top;
// read from the last step to the first this is the trellis as the paper draws it, new bits at the
// bottom. For half steps of K the number of bits per step alternates inside the tile.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/codec/trellis_code.h"

namespace quantloom {

constexpr size_t kTileWeights = 256;  // T

// A code and a rate. A value type.
class TrellisFormat {
 public:
  // `half_bits` is 2 K: 2 .. 8, of which 3, 5 and 7 are the half steps 1.5, 2.5 and 3.5 bits, and
  // 10, 12, 14 and 16 for all codes but HYB, whose 1024 codewords are too few for so many bits.
  // INVALID_ARGUMENT for others.
  static absl::StatusOr<TrellisFormat> Create(TrellisCode code, int half_bits);

  TrellisCode code() const { return code_; }
  int half_bits() const { return half_bits_; }
  double bits() const { return half_bits_ / 2.0; }  // K, bits per weight
  int weights_per_step() const { return WeightsPerState(code_); }
  int steps() const { return static_cast<int>(kTileWeights) / weights_per_step(); }

  size_t tile_bits() const { return kTileWeights * static_cast<size_t>(half_bits_) / 2; }
  size_t tile_bytes() const { return tile_bits() / 8; }  // 32 K

  // First bit of the state of a step in 0 .. steps(); Offset(steps()) == tile_bits().
  int Offset(int step) const { return step * weights_per_step() * half_bits_ / 2; }
  // Bits that step s does not share with step s + 1.
  int Shift(int step) const { return Offset(step + 1) - Offset(step); }

 private:
  TrellisFormat(TrellisCode code, int half_bits) : code_(code), half_bits_(half_bits) {}

  TrellisCode code_;
  int half_bits_;
};

// t of the scale contract: weights of root mean square r are divided by
// s = r / (TrellisCodebookRms(code) t) before encoding, and multiplied by s after decoding. The
// best t for independent Gaussian weights, found by measurement (bench/trellis_bench).
float TrellisScaleFactor(const TrellisFormat& format);

// Writes the 256 values, in codebook units, of a tile of format.tile_bytes() bytes. Every bit
// string is a valid tile.
void DecodeTile(const TrellisFormat& format, const uint8_t* bits, float* values);

// Values and targets as the integers that the search for a tile's bits works in. A value type.
class TrellisIntegers {
 public:
  explicit TrellisIntegers(const TrellisFormat& format);

  // Of a value of the codebook.
  int16_t Value(float value) const;
  // Of a target, beyond the codebook's largest value that one's.
  int16_t Target(float target) const;

 private:
  double peak_;      // of the codebook, as an integer
  double per_unit_;  // integers per codebook unit
};

// Finds the bits whose values are nearest to a tile's targets, by the Viterbi algorithm over all
// 2^16 states in 16-bit integers: the bytes depend on nothing but the targets. Owns 1 - 2 MB of
// workspace; one per thread.
class TileEncoder {
 public:
  // Positions of the tile whose value does not matter.
  using Ignored = std::bitset<kTileWeights>;

  explicit TileEncoder(const TrellisFormat& format);
  ~TileEncoder();
  TileEncoder(TileEncoder&&) noexcept;
  TileEncoder& operator=(TileEncoder&&) noexcept;

  // `targets`: 256 finite numbers in codebook units; those beyond the codebook's largest value
  // count as that value. Writes format.tile_bytes() bytes to `bits` and their 256 values to
  // `decoded`, which may be `targets`.
  void Encode(const float* targets, uint8_t* bits, float* decoded);

  // The same with weight zero in the distortion for some positions, whose targets are not read.
  void Encode(const float* targets, const Ignored& ignored, uint8_t* bits, float* decoded);

 private:
  class Search;
  TrellisFormat format_;
  std::unique_ptr<Search> search_;
};

}  // namespace quantloom
