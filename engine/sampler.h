// Choosing a sequence's next token from logits.
//
// Order of operations: logit bias, repetition / presence / frequency penalties over the sequence's
// prompt and generated tokens (repetition) or generated tokens (presence, frequency), and then what
// needs no history (engine/token_choice.h): temperature, top-k, top-p, min-p, draw. Tokens may be
// banned from a draw, whatever their bias. temperature 0 is greedy: argmax of the penalized logits,
// the lowest id among equals.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/token_choice.h"

namespace quantloom {

struct SamplingParams {
  float temperature = 0.0f;         // >= 0, finite; 0 is greedy
  int32_t top_k = 0;                // >= 0; 0 keeps all
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]; relative to the most likely token
  float repetition_penalty = 1.0f;  // > 0; 1 is none
  float presence_penalty = 0.0f;    // [-2, 2]
  float frequency_penalty = 0.0f;   // [-2, 2]
  uint64_t seed = 0;  // the same seed gives the same draws, whatever else is in the batch
  std::map<int32_t, float> logit_bias;  // token id -> addend, [-100, 100]

  // INVALID_ARGUMENT for what is out of range or NaN; the message begins with the field as spelled
  // here and ": ", e.g. "top_p: must be in (0, 1]".
  absl::Status Validate(int32_t vocab_size) const;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob =
      0;  // nats, of the model's distribution before penalties, temperature and truncation
};

// One sequence's sampler: owns its random state and token counts. Not thread-safe.
class Sampler {
 public:
  Sampler(SamplingParams params, absl::Span<const int32_t> prompt);

  // Picks from `logits` (one per vocabulary entry), `banned` tokens excepted, and remembers the
  // pick. Deterministic in (params, prompt, the logits and bans of all steps so far). A NaN logit
  // is never picked unless all are.
  int32_t Sample(absl::Span<const float> logits, absl::Span<const int32_t> banned = {});

  // The same pick as something to be done where the logits are; takes the draw that Sample would
  // have taken. nullopt, and no draw taken, where the host has to see the logits: they are
  // penalized for what was generated before, or too many are edited. Valid until the next call.
  std::optional<TokenChoice> Choose(absl::Span<const int32_t> banned = {});

 private:
  bool penalizes_generated() const;
  void ApplyPenalties();  // to adjusted_
  // With the next draw; no edits.
  TokenChoice NextChoice();

  SamplingParams params_;
  uint64_t draws_ = 0;      // counter-based random numbers: draw k of seed s
  std::set<int32_t> seen_;  // prompt and generated tokens
  std::map<int32_t, uint32_t> generated_counts_;
  std::vector<float> adjusted_;  // logits after bias and penalties
  std::vector<LogitEdit> edits_;
};

// log softmax(logits)[token], nats.
float LogprobOf(absl::Span<const float> logits, int32_t token);

// The `count` most likely tokens with their log-probabilities, most likely first, ties by id.
std::vector<TokenLogprob> TopLogprobs(absl::Span<const float> logits, size_t count);

}  // namespace quantloom
