// The arithmetic of perplexity over a text that is longer than a context.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "quantloom/v1/generation.pb.h"

namespace quantloom::cli {

// Whole windows without overlap from a text's start. Of each, the second half is scored: tokens
// window_tokens / 2 and on, which all have at least half a window before them. The quantizer's
// evaluation cuts texts in the same way.
struct ScoreWindows {
  size_t count;
  size_t window_tokens;

  // INVALID_ARGUMENT when the text is shorter than one window, or a window shorter than 2 tokens.
  // `limit` 0: all.
  static absl::StatusOr<ScoreWindows> Split(size_t tokens, size_t window_tokens, size_t limit);

  size_t Begin(size_t window) const { return window * window_tokens; }
  size_t first_scored() const { return window_tokens / 2; }
  size_t scored_per_window() const { return window_tokens - first_scored(); }
};

// Negative log-likelihood of scored tokens.
class Perplexity {
 public:
  // Adds a window's scored tokens. INTERNAL when the response is not what was asked for: too few
  // tokens, or one without log-probability.
  absl::Status Add(const ScoreWindows& windows, const quantloom::v1::ScoreResponse& response);

  uint64_t tokens() const { return tokens_; }
  // Nats per token; 0 before any.
  double mean() const { return tokens_ == 0 ? 0 : sum_ / static_cast<double>(tokens_); }
  double perplexity() const;
  // Standard error of the perplexity, taking tokens as independent (which makes it a little too
  // small).
  double standard_error() const;

 private:
  uint64_t tokens_ = 0;
  double sum_ = 0;
  double sum_of_squares_ = 0;
};

}  // namespace quantloom::cli
