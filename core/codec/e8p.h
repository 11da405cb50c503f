// QuIP#'s vector quantizer: 8 weights at a time, 2 bits a weight by E8P, 3 and 4 bits by a second
// stage that quantizes what the first left over (residual vector quantization; arXiv 2402.04396,
// sections 4.2 and 4.3). The codebooks are in e8p_table.h.
//
// The encoder finds the nearest of E8P's 2^16 vectors exactly. Signs fold: for a given entry of the
// table every coordinate takes the sign of its target, and where the number of signs has the wrong
// parity the one that costs least gives way. So 256 entries remain per shift, scored by one
// addition each from sums over half vectors, which only some 40 distinct halves have.
//
// Thread-safety: free functions over the caller's arrays.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "core/codec/e8p_table.h"

namespace quantloom {

// How E8P is used at a rate.
struct E8pRate {
  int bits;              // per weight
  float input_rms;       // root mean square that inputs are scaled to before encoding
  float residual_scale;  // what the first stage leaves is multiplied by this; 0: no second stage
  bool residual_is_e8p;  // the second stage: E8P, or else the 1-bit E8 codebook

  // Unit of the second stage's integers after that scaling is undone.
  constexpr float residual_step() const {
    return (residual_is_e8p ? kE8pUnit : kE8OneBitUnit) / residual_scale;
  }
};

// The published choices. Gaussian weights rounded to nearest lose 0.0912, 0.0295 and 0.0095 of
// their variance (bench/e8p_bench). At 2 and 3 bits that is the least over both constants to 0.2 %;
// at 4 bits an rms of 0.90 with a residual scale of 3.80 would leave 0.0083.
inline constexpr E8pRate kE8pRates[] = {
    {2, 1.03f, 0.0f, false},
    {3, 0.98f, 2.04f, false},
    {4, 1.03f, 3.45f, true},
};
// With LDLQ the targets are wider than the weights by the feedback, so weights are scaled to a
// smaller rms, which keeps more targets inside the codebook.
inline constexpr float kE8pLdlqInputRms = 0.9f;

// The rate of 2, 3 or 4 bits; INVALID_ARGUMENT for others.
absl::StatusOr<E8pRate> E8pRateOfBits(int bits);

// The nearest codeword (and, at 3 and 4 bits, the nearest to what is left) of each of `rows`
// vectors. Matrices are [8, rows], so that SIMD runs over rows:
//   targets         finite, scaled to about rate.input_rms
//   weights         of the squared errors, per coordinate, >= 0; null: all 1. 0 leaves a coordinate
//                   out of the choice (it decodes to something all the same).
//   codes           [rows] E8P codes
//   residual_codes  [rows] second-stage codes (< 256 at 3 bits); may be null at 2 bits
//   decoded         what DecodeE8pVector gives for the codes
// Of equally near codewords shift -1/4 wins, then the lowest table index; of equally cheap sign
// flips the lowest coordinate's. The result depends neither on threads nor on the SIMD target.
void EncodeE8p(const E8pRate& rate, const float* targets, const float* weights, size_t rows,
               uint16_t* codes, uint16_t* residual_codes, float* decoded, ThreadTeam& team);

// The vector of 8 of a code. `residual_code` is ignored at 2 bits.
constexpr void DecodeE8pVector(const E8pRate& rate, uint16_t code, uint16_t residual_code,
                               float* vector) {
  int8_t integers[kE8Dimensions] = {};
  DecodeE8p(kE8pTable, code, integers);
  for (int i = 0; i < kE8Dimensions; ++i) vector[i] = kE8pUnit * static_cast<float>(integers[i]);
  if (rate.residual_scale == 0.0f) return;
  if (rate.residual_is_e8p) {
    DecodeE8p(kE8pTable, residual_code, integers);
  } else {
    for (int i = 0; i < kE8Dimensions; ++i) {
      integers[i] = kE8OneBitTable.entry[residual_code & 0xFF][i];
    }
  }
  for (int i = 0; i < kE8Dimensions; ++i) {
    vector[i] += rate.residual_step() * static_cast<float>(integers[i]);
  }
}

}  // namespace quantloom
