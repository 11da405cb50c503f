#include "cli/score_windows.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace quantloom::cli {

using ::quantloom::v1::ScoreResponse;

absl::StatusOr<ScoreWindows> ScoreWindows::Split(size_t tokens, size_t window_tokens,
                                                 size_t limit) {
  if (window_tokens < 2) {
    return absl::InvalidArgumentError("--window-tokens: a window has at least 2 tokens");
  }
  const size_t whole = tokens / window_tokens;
  if (whole == 0) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", tokens,
                                                   " tokens, and a window takes ", window_tokens,
                                                   " (--window-tokens)"));
  }
  return ScoreWindows{limit == 0 ? whole : std::min(limit, whole), window_tokens};
}

absl::Status Perplexity::Add(const ScoreWindows& windows, const ScoreResponse& response) {
  if (static_cast<size_t>(response.tokens_size()) != windows.window_tokens) {
    return absl::InternalError(absl::StrCat("the server scored ", response.tokens_size(),
                                            " tokens of ", windows.window_tokens));
  }
  for (size_t i = windows.first_scored(); i < windows.window_tokens; ++i) {
    const auto& token = response.tokens(static_cast<int>(i));
    if (!token.has_logprob()) {
      return absl::InternalError(absl::StrCat("the server gave no log-probability for token ", i));
    }
    const double loss = -static_cast<double>(token.logprob());
    sum_ += loss;
    sum_of_squares_ += loss * loss;
    ++tokens_;
  }
  return absl::OkStatus();
}

double Perplexity::perplexity() const { return std::exp(mean()); }

double Perplexity::standard_error() const {
  if (tokens_ < 2) return 0;
  const auto count = static_cast<double>(tokens_);
  const double variance = std::max(0.0, sum_of_squares_ / count - mean() * mean()) / (count - 1);
  return perplexity() * std::sqrt(variance);  // to first order
}

}  // namespace quantloom::cli
