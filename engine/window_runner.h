// Runs a model over windows of text, each from an empty context: calibration, perplexity, checks
// against other implementations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/kv_cache.h"
#include "engine/model.h"

namespace quantloom {

// Not thread-safe. Owns a KV cache and activations for one window.
class WindowRunner {
 public:
  // Called for each wanted position in order; logits [vocab] predict the token at position + 1.
  using LogitsVisitor = absl::FunctionRef<void(size_t position, absl::Span<const float> logits)>;

  // For windows of up to `window_tokens` tokens; `model` must outlive the runner. INVALID_ARGUMENT
  // when the window is empty or longer than the model's context.
  static absl::StatusOr<std::unique_ptr<WindowRunner>> Create(const Model& model,
                                                              size_t window_tokens,
                                                              KvElement element);

  // The forward pass over a window, as one batch. INVALID_ARGUMENT for a window that is empty or
  // too long, or a token outside the vocabulary.
  absl::Status Forward(absl::Span<const int32_t> tokens);
  // Logits of positions [begin, end) of the last window, in pieces so that memory stays small.
  // Errors: the backend's status.
  absl::Status VisitLogits(size_t begin, size_t end, LogitsVisitor visit);

 private:
  WindowRunner(const Model& model, std::unique_ptr<KvCache> kv, size_t window_tokens);

  const Model& model_;
  std::unique_ptr<KvCache> kv_;
  BlockTable blocks_;
  RaggedBatch batch_;  // the last window
  size_t window_tokens_;
  Model::WorkspacePtr workspace_;
};

}  // namespace quantloom
