// One request inside the generation engine: its sequence, what it does with the logits it gets, and
// the notes that other threads leave for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/generation.h"
#include "engine/output_text.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"

namespace quantloom {

// How other threads wake the engine's. Shared, so that a stream may outlive its engine.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable changed;
  bool awake = false;  // guarded by mutex

  void Wake() {
    std::lock_guard<std::mutex> lock(mutex);
    awake = true;
    changed.notify_one();
  }
};

// What a stream's holder wants; the engine looks before each step.
struct RequestControl {
  std::atomic<bool> cancelled{false};
  std::atomic<bool> paused{false};
};

class RequestStream final : public GenerationStream {
 public:
  RequestStream(std::shared_ptr<RequestControl> control, std::shared_ptr<Mailbox> mailbox)
      : control_(std::move(control)), mailbox_(std::move(mailbox)) {}
  void Cancel() override {
    control_->cancelled.store(true);
    mailbox_->Wake();
  }
  void SetPaused(bool paused) override {
    control_->paused.store(paused);
    if (!paused) mailbox_->Wake();
  }

 private:
  std::shared_ptr<RequestControl> control_;
  std::shared_ptr<Mailbox> mailbox_;
};

// Used by the engine's thread alone. Every sequence of the engine's scheduler is one.
class ActiveRequest : public Sequence, public std::enable_shared_from_this<ActiveRequest> {
 public:
  using EventCallback = GenerationEngine::EventCallback;

  ActiveRequest(std::vector<int32_t> first_tokens, bool is_scoring, absl::Time deadline,
                std::string request_id, EventCallback callback);
  virtual ~ActiveRequest() = default;

  const std::shared_ptr<RequestControl>& control() const { return control_; }
  absl::Time deadline() const { return deadline_; }

  // The request's tokens run for the first time at `now`; later calls change nothing.
  void Started(absl::Time now) { started_ = std::min(started_, now); }
  // Which of the rows of tokens [begin, begin + count) is the first whose logits are wanted; all
  // after it are, too. `count` when none is.
  virtual uint32_t FirstWantedRow(uint32_t begin, uint32_t count) const = 0;
  // Counts the prompt's tokens when [begin, begin + count) are run: those among them that run for
  // the first time, and those before them that never ran because the prefix cache had them.
  struct PromptCount {
    uint32_t computed = 0;
    uint32_t cached = 0;
  };
  PromptCount CountPrompt(uint32_t begin, uint32_t count);

  // How the device is to choose the token after the last of `tokens`; nullopt where the host is to
  // see the logits. Called once for each step that runs that token. Valid until the next call.
  virtual std::optional<TokenChoice> Choose() { return std::nullopt; }
  // A step that has not been finished chooses the sequence's next token, in that selected row.
  // Where there will be another one after it, the sequence goes on with this one unknown.
  virtual void Expect(size_t /*selected_row*/) {}
  // Takes that token; returns the last event when the request is done.
  virtual std::optional<GenerationEvent> TakeChosen(const ChosenToken& /*chosen*/) {
    return std::nullopt;
  }
  // Without Choose: takes the wanted rows' logits [rows, vocab].
  virtual std::optional<GenerationEvent> TakeLogits(absl::Span<const float> logits,
                                                    size_t vocab) = 0;
  RequestSnapshot Snapshot(absl::Time now) const;
  // Sends the last event, its totals filled in.
  void Finish(GenerationEvent event);

 protected:
  void Send(const GenerationEvent& event) { callback_(event); }
  void FirstTokenAt(absl::Time now) { first_token_ = std::min(first_token_, now); }

  uint32_t prompt_tokens_;
  uint32_t generated_tokens_ = 0;

 private:
  std::shared_ptr<RequestControl> control_ = std::make_shared<RequestControl>();
  absl::Time deadline_;
  std::string request_id_;
  EventCallback callback_;
  uint32_t prompt_counted_ = 0;  // tokens computed or found in the prefix cache
  uint32_t prompt_cached_ = 0;
  absl::Time submitted_;
  absl::Time started_ = absl::InfiniteFuture();
  absl::Time first_token_ = absl::InfiniteFuture();
};

// Samples a token from its last position's logits until something ends it.
class GeneratingRequest final : public ActiveRequest {
 public:
  // `request` has passed CheckAndBound; `tokenizer` must outlive this.
  GeneratingRequest(GenerationRequest request, const ModelConfig& config,
                    const Tokenizer& tokenizer, EventCallback callback);

  uint32_t FirstWantedRow(uint32_t begin, uint32_t count) const override;
  std::optional<TokenChoice> Choose() override;
  void Expect(size_t selected_row) override;
  std::optional<GenerationEvent> TakeChosen(const ChosenToken& chosen) override;
  std::optional<GenerationEvent> TakeLogits(absl::Span<const float> logits, size_t vocab) override;

 private:
  // The last of `tokens` is not known yet.
  bool expects() const { return IsChosenInRow(tokens.back()); }
  bool EndsSequence(int32_t token) const;
  // Goes on with a token; returns the event that tells of it.
  GenerationEvent Append(int32_t token);
  // Sends the event, or returns it if it is the last.
  std::optional<GenerationEvent> SendOrReturn(GenerationEvent event);

  Sampler sampler_;
  OutputText text_;
  uint32_t max_tokens_;
  uint32_t min_tokens_;
  std::vector<int32_t> stop_tokens_;  // the model's included, unless they are to be ignored
  uint32_t logprobs_;
};

// Collects the log-probability of each token after the first.
class ScoringRequest final : public ActiveRequest {
 public:
  using ScoredToken = GenerationEngine::ScoredToken;

  // `options` have passed CheckScored.
  ScoringRequest(const std::vector<int32_t>& text, const GenerationEngine::ScoreOptions& options,
                 EventCallback callback);

  uint32_t FirstWantedRow(uint32_t begin, uint32_t count) const override;
  std::optional<GenerationEvent> TakeLogits(absl::Span<const float> logits, size_t vocab) override;
  // Once the last event was sent.
  std::vector<ScoredToken> TakeScores() { return std::move(scores_); }

 private:
  std::vector<int32_t> targets_;  // the token after each of the sequence's
  uint32_t top_;
  std::vector<ScoredToken> scores_;
};

// INVALID_ARGUMENT naming the field that is wrong; else sets `max_tokens` to what the context and a
// KV cache of `kv_tokens` positions let it be.
absl::Status CheckAndBound(GenerationRequest& request, const ModelConfig& config,
                           uint64_t kv_tokens);
absl::Status CheckScored(const std::vector<int32_t>& tokens,
                         const GenerationEngine::ScoreOptions& options, const ModelConfig& config,
                         uint64_t kv_tokens);

}  // namespace quantloom
