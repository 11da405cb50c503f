#include "engine/generation_request.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/status.h"
#include "core/text/utf8.h"

namespace quantloom {
namespace {

absl::Status CheckTokens(absl::string_view field, const std::vector<int32_t>& tokens,
                         const ModelConfig& config) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<uint64_t>(tokens[i]) >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(field, ": token ", tokens[i], " at index ", i,
                                                     " is not in the vocabulary of ",
                                                     config.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLength(absl::string_view field, size_t tokens, uint64_t limit,
                         absl::string_view of) {
  if (tokens == 0) return absl::InvalidArgumentError(absl::StrCat(field, ": must not be empty"));
  if (tokens <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": ", tokens, " tokens, but ", of, " at most ", limit));
}

absl::Status CheckStopStrings(const std::vector<std::string>& stop) {
  if (stop.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop: ", stop.size(), " strings, at most ", kMaxStopStrings));
  }
  for (const std::string& text : stop) {
    if (text.empty() || text.size() > kMaxStopStringBytes || !IsValidUtf8(text)) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop: each must be valid UTF-8 of 1 to ", kMaxStopStringBytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStanding(const Standing& standing) {
  if (standing.client.size() <= kMaxClientBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("client: ", standing.client.size(), " bytes, at most ", kMaxClientBytes));
}

GenerationEvent NotNumbers() {
  GenerationEvent event;
  event.status = absl::InternalError("the model's logits are not numbers");
  return event;
}

}  // namespace

absl::Status CheckAndBound(GenerationRequest& request, const ModelConfig& config,
                           uint64_t kv_tokens) {
  const size_t prompt = request.prompt.size();
  QL_RETURN_IF_ERROR(CheckLength("prompt", prompt, config.max_position - 1,
                                 "the context of the model leaves room for"));
  QL_RETURN_IF_ERROR(CheckLength("prompt", prompt, kv_tokens, "the KV cache holds"));
  QL_RETURN_IF_ERROR(CheckTokens("prompt", request.prompt, config));
  QL_RETURN_IF_ERROR(CheckTokens("stop_tokens", request.stop_tokens, config));
  QL_RETURN_IF_ERROR(CheckStopStrings(request.stop));
  if (request.logprobs > kMaxLogprobs) {
    return absl::InvalidArgumentError(
        absl::StrCat("logprobs: ", request.logprobs, " is more than ", kMaxLogprobs));
  }
  QL_RETURN_IF_ERROR(CheckStanding(request.standing));
  if (request.prefix_salt.size() > kMaxSaltBytes) {
    return absl::InvalidArgumentError(absl::StrCat("prefix_salt: ", request.prefix_salt.size(),
                                                   " bytes, at most ", kMaxSaltBytes));
  }
  QL_RETURN_IF_ERROR(request.sampling.Validate(static_cast<int32_t>(config.vocab_size)));

  // The last generated token is never cached.
  const uint64_t kv_room = kv_tokens - prompt + 1;
  const uint64_t context_room = config.max_position - prompt;
  const uint64_t most = request.max_tokens == 0
                            ? std::min(context_room, kv_room)
                            : std::min<uint64_t>(request.max_tokens, context_room);
  request.max_tokens = static_cast<uint32_t>(most);
  if (request.min_tokens > request.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("min_tokens: ", request.min_tokens,
                                                   " is more than the ", request.max_tokens,
                                                   " tokens that may be generated"));
  }
  if (request.max_tokens > kv_room) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens: ", request.max_tokens, " after a prompt of ", prompt,
                     " tokens is more than the KV cache of ", kv_tokens, " tokens holds"));
  }
  return absl::OkStatus();
}

absl::Status CheckScored(const std::vector<int32_t>& tokens,
                         const GenerationEngine::ScoreOptions& options, const ModelConfig& config,
                         uint64_t kv_tokens) {
  QL_RETURN_IF_ERROR(
      CheckLength("tokens", tokens.size(), config.max_position, "the context of the model holds"));
  QL_RETURN_IF_ERROR(CheckLength("tokens", tokens.size(), kv_tokens + 1, "the KV cache allows"));
  QL_RETURN_IF_ERROR(CheckTokens("tokens", tokens, config));
  if (options.top > kMaxLogprobs) {
    return absl::InvalidArgumentError(
        absl::StrCat("top: ", options.top, " is more than ", kMaxLogprobs));
  }
  return CheckStanding(options.standing);
}

// --- ActiveRequest

ActiveRequest::ActiveRequest(std::vector<int32_t> first_tokens, bool is_scoring,
                             absl::Time deadline, std::string request_id, EventCallback callback)
    : prompt_tokens_(static_cast<uint32_t>(first_tokens.size())),
      deadline_(deadline),
      request_id_(std::move(request_id)),
      callback_(std::move(callback)),
      submitted_(absl::Now()) {
  tokens = std::move(first_tokens);
  scoring = is_scoring;
}

ActiveRequest::PromptCount ActiveRequest::CountPrompt(uint32_t begin, uint32_t count) {
  const uint32_t spared_end = std::max(std::min(begin, prompt_tokens_), prompt_counted_);
  const uint32_t end = std::max(std::min(begin + count, prompt_tokens_), spared_end);
  const PromptCount counted = {.computed = end - spared_end,
                               .cached = spared_end - prompt_counted_};
  prompt_counted_ = end;
  prompt_cached_ += counted.cached;
  return counted;
}

RequestSnapshot ActiveRequest::Snapshot(absl::Time now) const {
  RequestSnapshot snapshot;
  snapshot.request_id = request_id_;
  snapshot.standing = standing;
  if (!blocks.empty()) {
    const bool decodes = generated_tokens_ > 0 && remaining() <= 1;
    snapshot.phase = decodes ? RequestPhase::kDecode : RequestPhase::kPrefill;
  }
  snapshot.scoring = scoring;
  snapshot.paused = paused;
  snapshot.preempted = preempted;
  snapshot.prompt_tokens = prompt_tokens_;
  snapshot.computed_tokens = cached;
  snapshot.cached_tokens = prompt_cached_;
  snapshot.generated_tokens = generated_tokens_;
  snapshot.kv_blocks = static_cast<uint32_t>(blocks.size());
  snapshot.age = now - submitted_;
  return snapshot;
}

void ActiveRequest::Finish(GenerationEvent event) {
  const absl::Time now = absl::Now();
  const absl::Time started = std::min(started_, now);
  event.prompt_tokens = prompt_tokens_;
  event.cached_tokens = prompt_cached_;
  event.generated_tokens = generated_tokens_;
  event.queue_time = started - submitted_;
  event.prefill_time = std::min(first_token_, now) - started;
  callback_(event);
}

// --- GeneratingRequest

GeneratingRequest::GeneratingRequest(GenerationRequest request, const ModelConfig& config,
                                     const Tokenizer& tokenizer, EventCallback callback)
    : ActiveRequest(request.prompt, /*is_scoring=*/false, request.deadline, request.request_id,
                    std::move(callback)),
      sampler_(std::move(request.sampling), request.prompt),
      text_(tokenizer, std::move(request.stop)),
      max_tokens_(request.max_tokens),
      min_tokens_(request.min_tokens),
      stop_tokens_(std::move(request.stop_tokens)),
      logprobs_(request.logprobs) {
  standing = std::move(request.standing);
  share_prefix = request.share_prefix;
  salt = std::move(request.prefix_salt);
  if (!request.ignore_eos) {
    stop_tokens_.insert(stop_tokens_.end(), config.eos_token_ids.begin(),
                        config.eos_token_ids.end());
  }
}

uint32_t GeneratingRequest::FirstWantedRow(uint32_t begin, uint32_t count) const {
  return begin + count == tokens.size() ? count - 1 : count;
}

bool GeneratingRequest::EndsSequence(int32_t token) const {
  return std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end();
}

std::optional<TokenChoice> GeneratingRequest::Choose() {
  if (logprobs_ > 0) return std::nullopt;
  const uint32_t before = generated_tokens_ + (expects() ? 1 : 0);
  return before >= min_tokens_ ? sampler_.Choose() : sampler_.Choose(stop_tokens_);
}

void GeneratingRequest::Expect(size_t selected_row) {
  if (generated_tokens_ + 1 < max_tokens_) tokens.push_back(ChosenInRow(selected_row));
}

GenerationEvent GeneratingRequest::Append(int32_t token) {
  GenerationEvent event;
  const bool may_end = generated_tokens_ >= min_tokens_;
  FirstTokenAt(absl::Now());
  ++generated_tokens_;
  event.token = token;
  if (EndsSequence(token)) {
    event.finish = FinishReason::kStop;
  } else {
    tokens.push_back(token);
    event.text = text_.Push(token, may_end);
    if (generated_tokens_ >= max_tokens_) event.finish = FinishReason::kLength;
  }
  if (event.finish != FinishReason::kNone) event.text += text_.Finish();
  if (text_.stopped()) {
    event.finish = FinishReason::kStopSequence;
    event.stop_sequence = *text_.stopped();
  }
  return event;
}

std::optional<GenerationEvent> GeneratingRequest::SendOrReturn(GenerationEvent event) {
  if (event.last()) return event;
  Send(event);
  return std::nullopt;
}

std::optional<GenerationEvent> GeneratingRequest::TakeChosen(const ChosenToken& chosen) {
  if (expects()) tokens.pop_back();
  if (std::isnan(chosen.logit)) return NotNumbers();
  return SendOrReturn(Append(chosen.token));
}

std::optional<GenerationEvent> GeneratingRequest::TakeLogits(absl::Span<const float> logits,
                                                             size_t /*vocab*/) {
  if (logits.empty()) return std::nullopt;  // a prefill chunk before the last
  const bool may_end = generated_tokens_ >= min_tokens_;
  const int32_t token = may_end ? sampler_.Sample(logits) : sampler_.Sample(logits, stop_tokens_);
  if (std::isnan(logits[static_cast<size_t>(token)])) return NotNumbers();
  GenerationEvent event = Append(token);
  if (logprobs_ > 0) {
    event.logprob = LogprobOf(logits, token);
    event.top = TopLogprobs(logits, logprobs_);
  }
  return SendOrReturn(std::move(event));
}

// --- ScoringRequest

ScoringRequest::ScoringRequest(const std::vector<int32_t>& text,
                               const GenerationEngine::ScoreOptions& options,
                               EventCallback callback)
    : ActiveRequest({text.begin(), text.end() - 1}, /*is_scoring=*/true, options.deadline,
                    options.request_id, std::move(callback)),
      targets_(text.begin() + 1, text.end()),
      top_(options.top) {
  standing = options.standing;
  scores_.reserve(targets_.size());
}

uint32_t ScoringRequest::FirstWantedRow(uint32_t begin, uint32_t count) const {
  // After a preemption, positions already scored are run again for their keys and values alone.
  const auto known = static_cast<uint32_t>(scores_.size());
  return std::min(std::max(known, begin) - begin, count);
}

std::optional<GenerationEvent> ScoringRequest::TakeLogits(absl::Span<const float> logits,
                                                          size_t vocab) {
  for (size_t row = 0; row * vocab < logits.size(); ++row) {
    const absl::Span<const float> row_logits = logits.subspan(row * vocab, vocab);
    const int32_t target = targets_[scores_.size()];
    ScoredToken& score = scores_.emplace_back();
    score.token = target;
    score.logprob = LogprobOf(row_logits, target);
    if (top_ > 0) score.top = TopLogprobs(row_logits, top_);
  }
  if (scores_.size() < targets_.size()) return std::nullopt;
  GenerationEvent event;
  event.finish = FinishReason::kLength;
  return event;
}

}  // namespace quantloom
