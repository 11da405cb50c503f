// Splits a batch of activation rows so that a block stays in a core's L2 cache while all weight
// rows pass over it.
#pragma once

#include <algorithm>
#include <cstddef>

#include "absl/functional/function_ref.h"

namespace quantloom::cpu {

// About half of the smallest L2 in use (1 MB Zen 4, 512 KB Zen 3), leaving room for weights, and
// four blocks of 512 tokens of 2048 columns. With half as much, weights are decoded twice as often:
// prompts are 2 to 7 % slower.
inline constexpr size_t kTokenBlockBytes = 264 * 1024;
// A block still amortizes the decoding of weights over this many tokens.
inline constexpr size_t kMinTokenBlock = 48;
// Blocks are multiples of it, and so of the tokens of every kernel's tiles.
inline constexpr size_t kTokenBlockUnit = 12;

// body(first, count) on consecutive ranges of [0, tokens); row_bytes: one activation row's size.
inline void ForTokenBlocks(size_t tokens, size_t row_bytes,
                           absl::FunctionRef<void(size_t first, size_t count)> body) {
  const size_t fit = kTokenBlockBytes / std::max<size_t>(row_bytes, 1);
  const size_t block = std::max(kMinTokenBlock, fit / kTokenBlockUnit * kTokenBlockUnit);
  for (size_t first = 0; first < tokens; first += block) {
    body(first, std::min(block, tokens - first));
  }
}

}  // namespace quantloom::cpu
