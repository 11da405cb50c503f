// The codes of trellis-coded quantization (QTIP, arXiv 2406.11235, section 3.1): pure functions
// from a 16-bit trellis state to the one or two weights that the state stands for.
//
//   1MAD   QTIP, algorithm 1: a linear congruence, then the sum of its four bytes, which is nearly
//          Gaussian by the central limit theorem.
//   MUL1   the same without the addend and with another multiplier, after ExLlamaV3. The values are
//          the integers themselves, so that products can be integer dot products.
//   3INST  QTIP, algorithm 2: a linear congruence whose two halves are masked into binary16 numbers
//          and added.
//   HYB    QTIP, algorithm 3: a hash that looks up one of 512 pairs and the sign of its first.
//
// Values are in codebook units: TrellisCodebookRms() tells their root mean square over all states.
// The functions have no state and use no library, so that device code can include this file.
#pragma once

#include <cstdint>

#include "core/base/host_device.h"

namespace quantloom {

enum class TrellisCode : uint8_t { k1Mad, kMul1, k3Inst, kHyb };

constexpr int kTrellisStateBits = 16;  // L
constexpr uint32_t kTrellisStates = 1u << kTrellisStateBits;

// V: how many weights a state stands for.
QL_HOST_DEVICE constexpr int WeightsPerState(TrellisCode code) {
  return code == TrellisCode::kHyb ? 2 : 1;
}

// Sum of the four bytes, less its mean over all x: -510 .. 510.
QL_HOST_DEVICE constexpr int32_t CenteredByteSum(uint32_t x) {
  const uint32_t pairs = (x & 0x00FF00FFu) + ((x >> 8) & 0x00FF00FFu);
  return static_cast<int32_t>((pairs & 0xFFFFu) + (pairs >> 16)) - 510;
}

constexpr uint32_t k1MadMultiplier = 34038481u;
constexpr uint32_t k1MadAddend = 76625530u;

// 1MAD before its scale: an integer in -510 .. 510.
QL_HOST_DEVICE constexpr int32_t Code1MadInteger(uint32_t state) {
  return CenteredByteSum(state * k1MadMultiplier + k1MadAddend);
}

// What 1MAD multiplies its integers by: one over the standard deviation of the sum of four bytes.
constexpr float k1MadUnit = 1.0f / 147.8f;

QL_HOST_DEVICE constexpr float Code1Mad(uint32_t state) {
  return static_cast<float>(Code1MadInteger(state)) * k1MadUnit;
}

constexpr uint32_t kMul1Multiplier = 0x83DCD12Du;

// MUL1: an integer in -510 .. 510.
QL_HOST_DEVICE constexpr int32_t CodeMul1Integer(uint32_t state) {
  return CenteredByteSum(state * kMul1Multiplier);
}

QL_HOST_DEVICE constexpr float CodeMul1(uint32_t state) {
  return static_cast<float>(CodeMul1Integer(state));
}

// 3INST: the congruence, and what makes two binary16 numbers of its result: (x & kept) ^ flipped.
constexpr uint32_t k3InstMultiplier = 89226354u;
constexpr uint32_t k3InstAddend = 64248484u;
constexpr uint32_t k3InstKept = 0x8FFF8FFFu;
constexpr uint32_t k3InstFlipped = 0x3B603B60u;

// 3INST's halves are binary16 numbers with biased exponents 12 .. 15, multiples of 2^-13; this is
// the multiple.
QL_HOST_DEVICE constexpr int32_t Code3InstHalf(uint32_t half) {
  const int32_t magnitude = static_cast<int32_t>(0x400u | (half & 0x3FFu))
                            << (((half >> 10) & 0x1Fu) - 12u);
  return (half & 0x8000u) != 0 ? -magnitude : magnitude;
}

// 3INST: the sum of two binary16 numbers, rounded to binary16 (nearest, ties to even) as the
// hardware's addition does; within +-4.
QL_HOST_DEVICE constexpr float Code3Inst(uint32_t state) {
  const uint32_t x = ((state * k3InstMultiplier + k3InstAddend) & k3InstKept) ^ k3InstFlipped;
  const int32_t sum = Code3InstHalf(x & 0xFFFFu) + Code3InstHalf(x >> 16);
  const uint32_t magnitude = static_cast<uint32_t>(sum < 0 ? -sum : sum);
  // Bits below the 11 significant ones; the sum is below 2^15.
  const uint32_t excess =
      (magnitude >= 2048u) + (magnitude >= 4096u) + (magnitude >= 8192u) + (magnitude >= 16384u);
  const uint32_t to_nearest =
      ((1u << excess) >> 1) - (excess != 0) + ((magnitude >> excess) & 1u) * (excess != 0);
  const uint32_t rounded = (magnitude + to_nearest) >> excess << excess;
  const float value = static_cast<float>(rounded) * 0x1p-13f;
  return sum < 0 ? -value : value;
}

// HYB's hash: bits 6 .. 14 select the pair, bit 15 negates its first number.
QL_HOST_DEVICE constexpr uint32_t CodeHybHash(uint32_t state) { return state * (state + 1u); }
QL_HOST_DEVICE constexpr uint32_t CodeHybIndex(uint32_t hash) { return (hash >> 6) & 0x1FFu; }
QL_HOST_DEVICE constexpr bool CodeHybNegates(uint32_t hash) { return ((hash >> 15) & 1u) != 0; }

// The pairs of HYB, binary16 bits. scripts/train_hyb_table.py states the rule they follow.
inline constexpr uint16_t kHybTable[512][2] = {
#include "core/codec/hyb_table.inc"
};

// Writes the WeightsPerState(code) values of a state.
void DecodeTrellisState(TrellisCode code, uint32_t state, float* values);

// The values of all states, [2^16, WeightsPerState(code)]. Made at the first call for the code.
const float* TrellisCodebook(TrellisCode code);

// Root mean square of the code's values over all states.
float TrellisCodebookRms(TrellisCode code);

// Largest absolute value of the code.
float TrellisCodebookPeak(TrellisCode code);

}  // namespace quantloom
