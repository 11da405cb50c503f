#include "core/codec/e8p.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/codec/e8p_search.h"

namespace quantloom {
namespace {

// Rows searched at a time: few enough to stay in the first-level cache.
constexpr size_t kBatch = kE8SearchRows;

// The code of table entry `index` for target x, and its shift as the search found them: signs as
// the search assumed them when it scored the entry.
uint16_t AssembleCode(const float* x, const float* weights, int index, bool shift_up) {
  const int8_t* entry = kE8pTable.entry[index];
  const float shift = shift_up ? kE8pUnit : -kE8pUnit;
  unsigned flips = 0;
  int cheapest = 0;
  float least = 0;
  bool odd = false;
  for (int i = 0; i < kE8Dimensions; ++i) {
    const float y = x[i * kBatch] - shift;
    const bool flip = std::signbit(y) != (entry[i] < 0);
    flips |= static_cast<unsigned>(flip) << i;
    odd ^= flip;
    // Magnitudes in quarters: a common factor does not matter here.
    const float cost = std::abs(y) * weights[i * kBatch] * std::abs(static_cast<float>(entry[i]));
    if (i == 0 || cost < least) {
      least = cost;
      cheapest = i;
    }
  }
  if (odd) flips ^= 1u << cheapest;
  return static_cast<uint16_t>(static_cast<unsigned>(index) << 8 | (flips & 0xFE) |
                               static_cast<unsigned>(shift_up));
}

// A batch of vectors, zeros behind the last: [8, kBatch].
struct Batch {
  alignas(64) float targets[kE8Dimensions * kBatch];
  alignas(64) float weights[kE8Dimensions * kBatch];
  alignas(64) float index[kBatch];
  alignas(64) float shift[kBatch];

  void Load(const float* from, const float* from_weights, size_t stride, size_t count) {
    for (int i = 0; i < kE8Dimensions; ++i) {
      std::fill(std::copy_n(from + i * stride, count, targets + i * kBatch),
                targets + (i + 1) * kBatch, 0.0f);
      if (from_weights == nullptr) {
        std::fill_n(weights + i * kBatch, kBatch, 1.0f);
      } else {
        std::fill(std::copy_n(from_weights + i * stride, count, weights + i * kBatch),
                  weights + (i + 1) * kBatch, 0.0f);
      }
    }
  }

  void EncodeE8p(size_t count, uint16_t* codes) {
    SearchE8p(targets, weights, index, shift);
    for (size_t r = 0; r < count; ++r) {
      codes[r] = AssembleCode(targets + r, weights + r, static_cast<int>(index[r]), shift[r] > 0);
    }
  }

  void EncodeOneBit(size_t count, uint16_t* codes) {
    SearchE8OneBit(targets, weights, index);
    for (size_t r = 0; r < count; ++r) codes[r] = static_cast<uint16_t>(index[r]);
  }

  // targets := (targets - first stage's vectors) * scale.
  void SetResiduals(size_t count, const uint16_t* codes, float scale) {
    for (size_t r = 0; r < count; ++r) {
      float vector[kE8Dimensions];
      DecodeE8pVector(kE8pRates[0], codes[r], 0, vector);
      for (int i = 0; i < kE8Dimensions; ++i) {
        float& target = targets[i * kBatch + r];
        target = (target - vector[i]) * scale;
      }
    }
  }
};

}  // namespace

absl::StatusOr<E8pRate> E8pRateOfBits(int bits) {
  for (const E8pRate& rate : kE8pRates) {
    if (rate.bits == bits) return rate;
  }
  return absl::InvalidArgumentError(absl::StrCat("E8P of ", bits, " bits; 2, 3 or 4"));
}

void EncodeE8p(const E8pRate& rate, const float* targets, const float* weights, size_t rows,
               uint16_t* codes, uint16_t* residual_codes, float* decoded, ThreadTeam& team) {
  team.ParallelFor(rows, kBatch, [&](size_t begin, size_t end, int) {
    Batch batch;
    for (size_t first = begin; first < end; first += kBatch) {
      const size_t count = std::min(kBatch, end - first);
      batch.Load(targets + first, weights == nullptr ? nullptr : weights + first, rows, count);
      batch.EncodeE8p(count, codes + first);
      if (rate.residual_scale != 0.0f) {
        batch.SetResiduals(count, codes + first, rate.residual_scale);
        if (rate.residual_is_e8p) {
          batch.EncodeE8p(count, residual_codes + first);
        } else {
          batch.EncodeOneBit(count, residual_codes + first);
        }
      }
      for (size_t r = first; r < first + count; ++r) {
        float vector[kE8Dimensions];
        DecodeE8pVector(rate, codes[r], residual_codes == nullptr ? 0 : residual_codes[r], vector);
        for (int i = 0; i < kE8Dimensions; ++i) decoded[i * rows + r] = vector[i];
      }
    }
  });
}

}  // namespace quantloom
