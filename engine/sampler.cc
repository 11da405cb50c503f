#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/random.h"
#include "kernels/cpu/ops.h"

namespace quantloom {
namespace {

absl::Status CheckRange(absl::string_view field, float value, bool in_range,
                        absl::string_view range) {
  if (in_range) return absl::OkStatus();  // a NaN compares false with any bound
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is not ", range));
}

constexpr float kBanned = -std::numeric_limits<float>::infinity();

// NaN counts as least likely, as in cpu::ArgMax.
float OrLeast(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
}

}  // namespace

absl::Status SamplingParams::Validate(int32_t vocab_size) const {
  constexpr float kMax = std::numeric_limits<float>::max();
  for (const absl::Status& status : {
           CheckRange("temperature", temperature, temperature >= 0 && temperature <= kMax,
                      "finite and at least 0"),
           CheckRange("top_p", top_p, top_p > 0 && top_p <= 1, "in (0, 1]"),
           CheckRange("min_p", min_p, min_p >= 0 && min_p <= 1, "in [0, 1]"),
           CheckRange("repetition_penalty", repetition_penalty,
                      repetition_penalty > 0 && repetition_penalty <= kMax,
                      "finite and greater than 0"),
           CheckRange("presence_penalty", presence_penalty,
                      presence_penalty >= -2 && presence_penalty <= 2, "in [-2, 2]"),
           CheckRange("frequency_penalty", frequency_penalty,
                      frequency_penalty >= -2 && frequency_penalty <= 2, "in [-2, 2]"),
       }) {
    if (!status.ok()) return status;
  }
  if (top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat("top_k: ", top_k, " is negative"));
  }
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0 || token >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: token ", token, " is not in the vocabulary"));
    }
    if (!(bias >= -100 && bias <= 100)) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: ", bias, " for token ", token, " is not in [-100, 100]"));
    }
  }
  return absl::OkStatus();
}

Sampler::Sampler(SamplingParams params, absl::Span<const int32_t> prompt)
    : params_(std::move(params)) {
  if (params_.repetition_penalty != 1.0f) seen_.insert(prompt.begin(), prompt.end());
}

void Sampler::ApplyPenalties() {
  for (const auto& [token, bias] : params_.logit_bias) adjusted_[token] += bias;
  if (params_.repetition_penalty != 1.0f) {
    // Keskar et al. 2019 (CTRL), with the sign taken care of as everybody does.
    for (int32_t token : seen_) {
      float& logit = adjusted_[token];
      logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    }
  }
  for (const auto& [token, count] : generated_counts_) {
    adjusted_[token] -=
        params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
  }
}

bool Sampler::penalizes_generated() const {
  return params_.presence_penalty != 0 || params_.frequency_penalty != 0;
}

TokenChoice Sampler::NextChoice() {
  TokenChoice choice = {.temperature = params_.temperature,
                        .top_k = params_.top_k,
                        .top_p = params_.top_p,
                        .min_p = params_.min_p};
  if (params_.temperature != 0) choice.random = UniformBits(params_.seed, draws_++);
  return choice;
}

int32_t Sampler::Sample(absl::Span<const float> logits, absl::Span<const int32_t> banned) {
  adjusted_.assign(logits.begin(), logits.end());
  ApplyPenalties();
  for (const int32_t token : banned) adjusted_[static_cast<size_t>(token)] = kBanned;
  const int32_t token = ChooseToken(absl::MakeSpan(adjusted_), NextChoice()).token;
  if (penalizes_generated()) ++generated_counts_[token];
  if (params_.repetition_penalty != 1.0f) seen_.insert(token);
  return token;
}

std::optional<TokenChoice> Sampler::Choose(absl::Span<const int32_t> banned) {
  if (params_.repetition_penalty != 1.0f || penalizes_generated() ||
      params_.logit_bias.size() + banned.size() > kMaxLogitEdits) {
    return std::nullopt;
  }
  std::map<int32_t, float> edits = params_.logit_bias;
  for (const int32_t token : banned) edits[token] = kBanned;
  edits_.clear();
  for (const auto& [token, addend] : edits) edits_.push_back({token, addend});
  TokenChoice choice = NextChoice();
  choice.edits = edits_;
  return choice;
}

float LogprobOf(absl::Span<const float> logits, int32_t token) {
  return logits[static_cast<size_t>(token)] - cpu::LogSumExp(logits.data(), logits.size());
}

std::vector<TokenLogprob> TopLogprobs(absl::Span<const float> logits, size_t count) {
  count = std::min(count, logits.size());
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(),
                    [&](int32_t a, int32_t b) {
                      const float left = OrLeast(logits[a]);
                      const float right = OrLeast(logits[b]);
                      return left != right ? left > right : a < b;
                    });
  const float normalizer = cpu::LogSumExp(logits.data(), logits.size());
  std::vector<TokenLogprob> top(count);
  for (size_t i = 0; i < count; ++i) top[i] = {ids[i], logits[ids[i]] - normalizer};
  return top;
}

}  // namespace quantloom
