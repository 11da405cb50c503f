// One step of the Viterbi algorithm on the bitshift trellis, for all 2^16 states, in SIMD.
//
// Read from the last step of a tile to the first, a state s is (r << in | new bits) mod 2^16: it
// comes from survivor r = s >> in, where `in` is the number of bits the step adds. Its metric is
// the survivor's plus the squared error of its values. States that agree in all but their highest
// `out` bits have the same successors, and only the best of each such group survives:
//
//   to[r] = min over x in 0 .. 2^out - 1 of from[s >> in] + error(s),  s = x << (16 - out) | r
//
// Metrics are saturating unsigned 16-bit integers and errors integers too, so every SIMD target
// finds the same path. The values are stored in the order the loops consume them: one linear stream
// from the second-level cache per step, which is what bounds the speed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/host_device.h"
#include "core/codec/trellis_code.h"

namespace quantloom {

// A metric that no path has: it stays what it is whatever is added.
constexpr uint16_t kUnreachable = 0xFFFF;

// Metrics are lowered once their least has reached this, which leaves the other 15/16 of their
// range to the differences between survivors.
constexpr uint16_t kLowerAt = 4096;

// Survivors are handled in blocks of this many, whatever the vectors' size.
constexpr size_t kViterbiBlock = 32;

// Elements that the step may read behind the survivors.
constexpr size_t kSurvivorPadding = 32;

QL_HOST_DEVICE constexpr size_t SurvivorCount(int shift) {
  return size_t{1} << (kTrellisStateBits - shift);
}

// Bits that the choice of one survivor's best x takes, a divisor of 16.
QL_HOST_DEVICE constexpr int ChoiceBits(int out) { return out <= 2 ? out : out <= 4 ? 4 : 8; }

// 16-bit words that the choices of one step take.
constexpr size_t ChoiceWords(int out) {
  return SurvivorCount(out) * static_cast<size_t>(ChoiceBits(out)) / 16;
}

// Position of state s = x << (16 - out) | r in the stream of values: by blocks of r, then x.
constexpr size_t StreamIndex(uint32_t state, int out) {
  const size_t r = state & (SurvivorCount(out) - 1);
  const size_t x = state >> (kTrellisStateBits - out);
  return ((r / kViterbiBlock << out) + x) * kViterbiBlock + r % kViterbiBlock;
}

// The x that survivor r of a step came from.
inline uint32_t Choice(const uint16_t* choices, int out, size_t r) {
  const int bits = ChoiceBits(out);
  const size_t per_word = 16 / static_cast<size_t>(bits);
  const size_t block = r / kViterbiBlock;
  const uint32_t word = choices[block / per_word * kViterbiBlock + r % kViterbiBlock];
  const size_t later = per_word - 1 - block % per_word;
  return word >> (later * static_cast<size_t>(bits)) & ((1u << bits) - 1);
}

// How finely errors are counted, by the most bits that a weight gets: the smaller the distortion,
// the finer, so that rounding errors to integers costs less than 0.1 % of it. One more halves the
// largest difference between a target and a value that is told from larger ones.
QL_HOST_DEVICE constexpr int ErrorPrecision(int in, int out, int components) {
  const int bits = (in > out ? in : out) / components;
  return bits <= 2 ? 0 : bits <= 4 ? bits - 2 : bits <= 6 ? 3 : 4;
}

// What the codebook's largest value is as an integer. At precision 0 no difference of a target and
// a value exceeds 16 bits, at 1 those of more than the largest value saturate; beyond that the step
// doubles differences, precision - 1 times.
constexpr int IntegerPeak(int precision) { return precision == 0 ? 16383 : 32767; }

struct ViterbiStep {
  int in;                    // 1 .. 8
  int out;                   // 1 .. 8
  int components;            // V: 1, or 2 with in == out
  const int16_t* values[2];  // per component, 2^16 in the order of StreamIndex, 64-byte aligned
  int16_t targets[2];        // per component, in the values' unit, within +-IntegerPeak
  const uint16_t* from;      // SurvivorCount(in) metrics and kSurvivorPadding more
  uint16_t* to;              // SurvivorCount(out) metrics, 64-byte aligned
  uint16_t* choices;         // ChoiceWords(out), 64-byte aligned; null if not to be read back
};

// Runs a step; returns the least of the metrics it wrote. The error of a value v for a target t is
// floor(d^2 / 2^16), d = (t - v) 2^max(0, ErrorPrecision - 1) saturated to 16 bits.
uint16_t RunViterbiStep(const ViterbiStep& step);

// Subtracts `amount` from all metrics but the unreachable.
void LowerMetrics(uint16_t* metrics, size_t count, uint16_t amount);

}  // namespace quantloom
