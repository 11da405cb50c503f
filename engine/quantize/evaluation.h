// How far a packed model is from its source on a text: perplexity of both, KL divergence, top-1
// agreement.
//
// The text is cut into windows without overlap, each run from an empty context; the tokens of a
// window's second half are scored. No BOS is added unless the tokenizer's configuration does.
//
//   QL_ASSIGN_OR_RETURN(auto comparison, ModelComparison::Create(source, packed, 512, team));
//   for (each window) QL_ASSIGN_OR_RETURN(windows[i], comparison->Compare(tokens of the window));
//   QualityMetrics metrics = Summarize(windows);
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "engine/loaded_model.h"
#include "engine/quantize/quantize_model.h"
#include "engine/window_runner.h"

namespace quantloom {

inline constexpr uint32_t kMinWindowTokens = 16;

// Tokens in a window: what was asked for, or for 0 what is usual: 512, or `context` if that is
// shorter. INVALID_ARGUMENT outside kMinWindowTokens .. `context`.
absl::StatusOr<uint32_t> ResolveWindowTokens(uint32_t asked, uint64_t context);

// How many windows of a text of `tokens` tokens are scored: `asked`, 0 and too many meaning all
// whole ones. INVALID_ARGUMENT when the text is shorter than one.
absl::StatusOr<uint32_t> CountWindows(size_t tokens, uint32_t asked, uint32_t window_tokens);

// What one window says of both models. Sums are over the scored positions, in nats.
struct WindowMetrics {
  double nll_source = 0;
  double nll_packed = 0;
  std::vector<double> kl;  // KL(source || packed) of each scored position, in order
  uint32_t same_top1 = 0;  // positions where both find the same token the most likely
};

// Two models side by side. Not thread-safe; memory is two KV caches of one window, whatever the
// vocabulary.
class ModelComparison {
 public:
  // `window_tokens` is one that ResolveWindowTokens gave for both contexts. The references must
  // outlive the comparison. INVALID_ARGUMENT when a token id does not mean the same in both models.
  static absl::StatusOr<std::unique_ptr<ModelComparison>> Create(const LoadedModel& source,
                                                                 const LoadedModel& packed,
                                                                 uint32_t window_tokens,
                                                                 ThreadTeam& team);

  // Scores the second half of a window of `window_tokens` tokens. INVALID_ARGUMENT for another
  // number of tokens, or one outside the vocabulary.
  absl::StatusOr<WindowMetrics> Compare(absl::Span<const int32_t> window);

 private:
  ModelComparison(uint32_t window_tokens, size_t vocabulary, ThreadTeam& team)
      : window_tokens_(window_tokens), vocabulary_(vocabulary), team_(team) {}

  const uint32_t window_tokens_;
  const size_t vocabulary_;
  ThreadTeam& team_;
  std::unique_ptr<WindowRunner> source_;
  std::unique_ptr<WindowRunner> packed_;
  // Logits of a few positions, [position, vocabulary].
  std::vector<float> source_logits_;
  std::vector<float> packed_logits_;
};

// The figures of all windows together; the 99th percentile is the value at rank floor(0.99 n), from
// 0, in ascending order. Names and digests are the caller's.
QualityMetrics Summarize(absl::Span<const WindowMetrics> windows);

// Compares the models on `tokens`, both run on `team`. `progress` is called between windows with
// the share done; a non-OK status ends the evaluation. Errors as of the functions above.
absl::StatusOr<QualityMetrics> CompareModels(const LoadedModel& source, const LoadedModel& packed,
                                             absl::Span<const int32_t> tokens, uint32_t windows,
                                             uint32_t window_tokens, ThreadTeam& team,
                                             const std::function<absl::Status(double)>& progress);

}  // namespace quantloom
