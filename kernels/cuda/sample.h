// Choosing tokens from rows of logits: argmax, or a draw from the softmax cut to the top k, the top
// p and by min_p. What is chosen is defined by engine/token_choice.h, to the bit.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// How a row's token is chosen.
struct SampleParameters {
  uint64_t random = 0;      // the draw, of 2^64
  uint64_t top_p = 0;       // the share of the mass, of 2^64; 0: all
  float temperature = 0;    // 0: argmax; negative: nothing is chosen, the row is left alone
  float min_p = 0;          // 0: all
  uint32_t top_k = 0;       // 0: all
  uint32_t first_edit = 0;  // of the row's edits
  uint32_t edits = 0;
};

// Added to the token's logit; -infinity takes its place.
struct SampleEdit {
  int32_t token;
  float addend;
};

struct SampledToken {
  int32_t token;
  float logit;  // NaN where all the row's are
};

// Entries of the vocabulary, at most: masses are 64-bit sums.
constexpr uint32_t kMaxSampledEntries = 1u << 24;

// Edits the rows' logits [rows, cols] and sets chosen[i] for rows i with something to choose.
// parameters [rows]; a row's edits are of different tokens. Null, or why the kernel could not be
// launched.
const char* SampleTokens(float* logits, uint32_t rows, uint32_t cols,
                         const SampleParameters* parameters, const SampleEdit* edits,
                         SampledToken* chosen, Stream stream);

}  // namespace quantloom::cuda
