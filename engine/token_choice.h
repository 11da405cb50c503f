// Choosing a token from one row of logits: the part of sampling that needs nothing but the row, and
// so can run where the logits are. Backends implement it (Backend::ChooseTokens) with the same
// result to the bit: ChooseToken below is the CPU's, and the reference of others.
//
// Order of operations: edits; with temperature 0 the argmax, the lowest id among equals; else
// softmax of logits / temperature cut to the top k, then to the top p of what is left, then to
// those at least min_p times as likely as the likeliest, and a draw. "Likelier" is the larger
// (logit - max) / temperature in fp32, the lower id among equals.
//
// The arithmetic is such that the order of additions does not matter. A candidate weighs
// exp((logit - max) / temperature), in fp32 by cpu::Exp, times 2^39 and truncated: 2^39 for the
// likeliest, nothing for what is 2^39 times less likely. Masses are sums of these integers; a
// vocabulary has at most 2^24 entries, so they fit 64 bits. A draw is the first candidate, by id,
// up to which the mass exceeds `random` 2^-64 of all the candidates' mass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace quantloom {

inline constexpr int kTokenMassBits = 39;

// `addend` is added to the token's logit; -infinity bans the token, whatever its logit.
struct LogitEdit {
  int32_t token = 0;
  float addend = 0;
};
// Edits of one row, at most: more than anybody asks for in earnest.
inline constexpr size_t kMaxLogitEdits = 256;

struct TokenChoice {
  float temperature = 0;                   // >= 0, finite; 0 is greedy
  int32_t top_k = 0;                       // 0 keeps all
  float top_p = 1;                         // (0, 1]; 1 keeps all
  float min_p = 0;                         // [0, 1]
  uint64_t random = 0;                     // uniform
  absl::Span<const LogitEdit> edits = {};  // each token once
};

struct ChosenToken {
  int32_t token = 0;
  float logit = 0;  // edited; NaN where all the row's are
};

// Picks from `logits`, one per vocabulary entry, and leaves them edited. NaN is never picked unless
// all are; then it is token 0. Where the largest is infinite, so is the first of these picked.
ChosenToken ChooseToken(absl::Span<float> logits, const TokenChoice& choice);

// top_p as a share of 2^64, exactly (below 2^-40, rounded up to a multiple of 2^-64); 0 for 1.
uint64_t TopPShare(float top_p);

}  // namespace quantloom
