// Generation for several requests at once over one loaded model: the interface the serving service
// uses.
//
//   QL_ASSIGN_OR_RETURN(auto model, LoadedModel::Load(directory, options));
//   GenerationEngine engine(model, limits);
//   QL_ASSIGN_OR_RETURN(auto stream, engine.Submit(request, [&](const GenerationEvent& event) { ...
//   })); stream->Cancel();
//
// Continuous batching: each step runs one ragged batch of decode tokens and prefill chunks. A
// request's tokens do not depend on what else is in the batch, on chunking, or on the number of
// threads.
//
// A device that can runs a step ahead: while it runs, the tokens of the one before are made into
// text and handed out. A request that turns out to have ended wasted one row. Steps that the host
// has to see logits of (logprobs, penalties, scoring) are waited for.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/backend.h"
#include "engine/loaded_model.h"
#include "engine/sampler.h"
#include "engine/standing.h"

namespace quantloom {

struct GenerationRequest {
  std::vector<int32_t> prompt;  // 1 .. context length - 1 tokens
  SamplingParams sampling;
  uint32_t max_tokens = 0;  // 0: as many as the context and the KV cache hold
  // Before so many tokens no end-of-sequence or stop token is chosen, and stop strings are not
  // looked for; at most max_tokens.
  uint32_t min_tokens = 0;
  // Text that ends generation and is not part of the output: at most kMaxStopStrings, each valid
  // UTF-8 of 1 .. kMaxStopStringBytes bytes.
  std::vector<std::string> stop;
  // Beside the model's own end-of-sequence tokens. Either kind is reported as a token, has no text
  // and counts as generated.
  std::vector<int32_t> stop_tokens;
  bool ignore_eos = false;
  uint32_t logprobs = 0;  // alternatives per token, 0 none, at most kMaxLogprobs
  // Keys and values of prompts that begin with the same tokens are computed once; nothing else
  // about a request depends on it. Off: nothing is taken from others, nothing left to them.
  bool share_prefix = true;
  // Prefixes are shared between requests of the same salt alone: who does not know it cannot find
  // out, from how soon an answer begins, what others have asked. At most kMaxSaltBytes.
  std::string prefix_salt;
  Standing standing;
  std::string request_id;  // what the caller calls it; for RequestSnapshot
  absl::Time deadline = absl::InfiniteFuture();
};
inline constexpr uint32_t kMaxLogprobs = 20;
// KV cache tokens per running sequence where no capacity is given; less for a shorter context.
inline constexpr uint32_t kDefaultKvTokensEach = 2048;
inline constexpr size_t kMaxSaltBytes = 256;
inline constexpr size_t kMaxStopStrings = 64;
inline constexpr size_t kMaxStopStringBytes = 1024;

enum class FinishReason { kNone, kStop, kStopSequence, kLength };

// One generated token, or the end (finish != kNone or a non-OK status). Text may lag behind tokens:
// bytes of an unfinished character or of a possible stop string are held back until they are
// decided.
struct GenerationEvent {
  std::optional<int32_t> token;
  std::string text;               // complete UTF-8
  float logprob = 0;              // of `token`, when logprobs > 0
  std::vector<TokenLogprob> top;  // `logprobs` alternatives
  FinishReason finish = FinishReason::kNone;
  std::string stop_sequence;  // which, for kStopSequence
  // CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE (shutting down, or the device failed), INTERNAL
  absl::Status status;
  // On the last event:
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;  // of the prompt's, those that the prefix cache spared
  uint32_t generated_tokens = 0;
  absl::Duration queue_time;    // Submit to first scheduling
  absl::Duration prefill_time;  // first scheduling to first token
  bool last() const { return finish != FinishReason::kNone || !status.ok(); }
};

// Any thread may call these, the event callback included: they only leave a note for the engine.
class GenerationStream {
 public:
  virtual ~GenerationStream() = default;
  // Ends the request within one step; its last event has status CANCELLED. Idempotent.
  virtual void Cancel() = 0;
  // Lets the consumer bound what is buffered: while paused the request is not scheduled. Tokens of
  // steps that were started before still come, two at most.
  virtual void SetPaused(bool paused) = 0;
};

// What the engine observed since it started; counters only grow.
struct EngineStats {
  uint64_t prompt_tokens = 0;      // computed, not counting recomputation
  uint64_t prefix_hit_tokens = 0;  // prompt tokens that the prefix cache spared
  uint64_t generated_tokens = 0;
  uint64_t steps = 0;
  uint64_t preemptions = 0;
  uint32_t requests_running = 0;  // hold KV blocks; texts being scored included
  uint32_t requests_waiting = 0;
  uint32_t last_batch_tokens = 0;
  uint64_t weight_bytes_read = 0;  // each step reads the decoder's weights once
  // The device's time for steps with prompt tokens among others, and for steps without.
  absl::Duration prefill_time;
  absl::Duration decode_time;
  uint32_t kv_blocks_total = 0;
  uint32_t kv_blocks_used = 0;    // by requests
  uint32_t kv_blocks_cached = 0;  // by none, but with content that a request may reuse
};

enum class RequestPhase { kWaiting, kPrefill, kDecode };

// Where a request is, for those who look into a running engine. Holds no tokens and no text.
struct RequestSnapshot {
  std::string request_id;
  Standing standing;
  RequestPhase phase = RequestPhase::kWaiting;
  bool scoring = false;
  bool paused = false;     // its consumer asked for that
  bool preempted = false;  // waits to be recomputed
  uint32_t prompt_tokens = 0;
  uint32_t computed_tokens = 0;  // positions in the KV cache
  uint32_t cached_tokens = 0;    // of the prompt's, those that the prefix cache spared
  uint32_t generated_tokens = 0;
  uint32_t kv_blocks = 0;  // shared ones included
  absl::Duration age;      // since Submit
};

class GenerationEngine {
 public:
  struct Limits {
    uint32_t max_running = 16;  // sequences in one batch
    uint32_t max_waiting = 64;  // queued beyond them
    // Requests of one client that may run or wait; 0: as many as of all.
    uint32_t max_client_requests = 0;
    uint32_t step_tokens = 512;  // token budget of one step
    // Prompt tokens in one step, of all sequences together, twice as many where they end a prompt:
    // how long a step takes, and so how soon a request that comes can begin.
    uint32_t prefill_chunk = 16;
    // KV cache capacity; 0: max_running * min(context, kDefaultKvTokensEach).
    uint32_t kv_tokens = 0;
    uint32_t kv_block_tokens = 16;
    KvElement kv_element = KvElement::kF16;
    bool prefix_cache = true;      // false: as if no request shared prefixes
    bool isolate_clients = false;  // prefixes are shared within a client's requests alone
  };
  // Called on the engine's thread, events of one request in order; must not block.
  using EventCallback = std::function<void(const GenerationEvent&)>;

  // Bytes that an engine with these limits allocates for such a model beside its weights.
  struct Memory {
    uint64_t kv_cache = 0;
    uint64_t activations = 0;  // of one step
  };
  static Memory MemoryFor(const ModelConfig& config, const Limits& limits);

  // Told, on the engine's thread, why the device failed.
  using FailureCallback = std::function<void(const absl::Status&)>;

  // INVALID_ARGUMENT naming a limit that makes no sense; RESOURCE_EXHAUSTED when the KV cache or a
  // step's activations cannot be allocated.
  //
  // When the device fails, every request ends with UNAVAILABLE and the device's message,
  // `on_failure` is called once, and from then on Submit and Score answer UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<GenerationEngine>> Create(
      std::shared_ptr<const LoadedModel> model, const Limits& limits,
      FailureCallback on_failure = {});
  // Ends every request with UNAVAILABLE, then joins the engine's thread.
  virtual ~GenerationEngine() = default;

  // INVALID_ARGUMENT whose message begins with the field and ": ", e.g. "prompt: 9000 tokens, ..."
  // (prompt empty, longer than the context, more than the KV cache can ever hold, token ids out of
  // range, sampling); RESOURCE_EXHAUSTED when the queue is full or the client has too many
  // requests; UNAVAILABLE when draining or when the device has failed. When it succeeds the
  // callback gets every event exactly once up to the last one (perhaps before Submit has returned),
  // also after the stream object is gone; when it fails, none.
  virtual absl::StatusOr<std::shared_ptr<GenerationStream>> Submit(GenerationRequest request,
                                                                   EventCallback callback) = 0;
  struct ScoredToken {
    int32_t token;
    float logprob;
    std::vector<TokenLogprob> top;
  };
  struct ScoreOptions {
    uint32_t top = 0;  // most likely alternatives, at most kMaxLogprobs
    Standing standing = {};
    std::string request_id = {};
    absl::Time deadline = absl::InfiniteFuture();
    std::function<bool()> cancelled = {};  // polled on the calling thread; ends it with CANCELLED
  };
  // log p(token[i] | token[0..i-1]) for i = 1 .. n-1, nats. Shares the streams' steps in small
  // chunks, queues and counts as a request. Errors as Submit's, field "tokens", "top" or "client".
  virtual absl::StatusOr<std::vector<ScoredToken>> Score(const std::vector<int32_t>& tokens,
                                                         const ScoreOptions& options) = 0;

  // Stops admitting; returns when all requests have ended or `deadline` has passed (the rest then
  // ends UNAVAILABLE).
  virtual void Drain(absl::Time deadline) = 0;
  virtual EngineStats stats() const = 0;
  // At most `most` of the requests: those that run first, then by age, oldest first. Taken between
  // two steps, so it waits for one; nullopt when that takes longer than until `deadline`.
  virtual std::optional<std::vector<RequestSnapshot>> Snapshot(size_t most,
                                                               absl::Time deadline) = 0;
  virtual const LoadedModel& model() const = 0;
};

}  // namespace quantloom
