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

int32_t Sampler::Sample(absl::Span<const float> logits, absl::Span<const int32_t> banned) {
  const bool penalizes_generated = params_.presence_penalty != 0 || params_.frequency_penalty != 0;
  if (!params_.logit_bias.empty() || params_.repetition_penalty != 1.0f || penalizes_generated ||
      !banned.empty()) {
    adjusted_.assign(logits.begin(), logits.end());
    ApplyPenalties();
    for (const int32_t token : banned) {
      adjusted_[static_cast<size_t>(token)] = -std::numeric_limits<float>::infinity();
    }
    logits = adjusted_;
  }
  const int32_t token = params_.temperature == 0
                            ? static_cast<int32_t>(cpu::ArgMax(logits.data(), logits.size()))
                            : Draw(logits);
  if (penalizes_generated) ++generated_counts_[token];
  if (params_.repetition_penalty != 1.0f) seen_.insert(token);
  return token;
}

int32_t Sampler::Draw(absl::Span<const float> logits) {
  const double uniform = UniformDraw(params_.seed, draws_++);
  const size_t best = cpu::ArgMax(logits.data(), logits.size());
  const float max = logits[best];
  if (!std::isfinite(max)) return static_cast<int32_t>(best);

  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    // In double: a tiny temperature must give 0 for the largest and -inf for others, never NaN.
    const double scaled = (static_cast<double>(logits[i]) - max) / params_.temperature;
    if (std::isnan(scaled)) continue;
    candidates_.push_back({static_cast<int32_t>(i), static_cast<float>(scaled)});
  }
  Truncate();
  const double total =
      std::accumulate(candidates_.begin(), candidates_.end(), 0.0,
                      [](double sum, const Candidate& c) { return sum + c.weight; });
  double left = uniform * total;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.weight;
    if (left < 0) return candidate.token;
  }
  // Rounding ate the last candidate's share.
  const auto last = std::find_if(candidates_.rbegin(), candidates_.rend(),
                                 [](const Candidate& c) { return c.weight > 0; });
  return last->token;
}

void Sampler::Truncate() {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  const auto top_k = static_cast<size_t>(params_.top_k);
  if (top_k > 0 && top_k < candidates_.size()) {
    const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(top_k);
    std::nth_element(candidates_.begin(), end - 1, candidates_.end(), likelier);
    candidates_.erase(end, candidates_.end());
  }
  double total = 0;
  for (Candidate& candidate : candidates_) {
    candidate.weight = cpu::Exp(candidate.weight);
    total += candidate.weight;
  }
  if (params_.top_p < 1) {
    // The smallest set of most likely tokens that holds top_p of the mass: taken from a heap one by
    // one, since it is small next to the vocabulary.
    const auto less_likely = [&](const Candidate& a, const Candidate& b) { return likelier(b, a); };
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    double mass = 0;
    auto heap_end = candidates_.end();
    while (heap_end != candidates_.begin() && mass < params_.top_p * total) {
      std::pop_heap(candidates_.begin(), heap_end, less_likely);
      mass += (--heap_end)->weight;
    }
    candidates_.erase(candidates_.begin(), heap_end);
  }
  // The most likely candidate has weight exp(0) = 1.
  const float least = params_.min_p;
  if (least > 0) {
    candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                     [&](const Candidate& c) { return c.weight < least; }),
                      candidates_.end());
  }
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
