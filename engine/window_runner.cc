#include "engine/window_runner.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/base/status.h"

namespace quantloom {
namespace {
constexpr uint32_t kBlockTokens = 64;
constexpr size_t kLogitRows = 32;  // 49 152 tokens: 6 MB of logits
}  // namespace

WindowRunner::WindowRunner(const Model& model, std::unique_ptr<KvCache> kv, size_t window_tokens)
    : model_(model),
      kv_(std::move(kv)),
      window_tokens_(window_tokens),
      workspace_(model.CreateWorkspace(window_tokens, kLogitRows)) {
  kv_->blocks().Cover(window_tokens, blocks_);
}

absl::StatusOr<std::unique_ptr<WindowRunner>> WindowRunner::Create(const Model& model,
                                                                   size_t window_tokens,
                                                                   KvElement element) {
  if (window_tokens == 0 || window_tokens > model.config().max_position) {
    return absl::InvalidArgumentError(absl::StrCat("window of ", window_tokens,
                                                   " tokens; the model's context is 1 to ",
                                                   model.config().max_position));
  }
  QL_ASSIGN_OR_RETURN(auto kv, KvCache::Create(model.backend(), model.config(), window_tokens,
                                               kBlockTokens, element));
  return std::unique_ptr<WindowRunner>(new WindowRunner(model, std::move(kv), window_tokens));
}

absl::Status WindowRunner::Forward(absl::Span<const int32_t> tokens) {
  if (tokens.empty() || tokens.size() > window_tokens_) {
    return absl::InvalidArgumentError(
        absl::StrCat("window of ", tokens.size(), " tokens, expected 1 to ", window_tokens_));
  }
  for (int32_t token : tokens) {
    if (token < 0 || static_cast<uint64_t>(token) >= model_.config().vocab_size)
      return absl::InvalidArgumentError(absl::StrCat("token ", token, " is not in the vocabulary"));
  }
  batch_.Clear();
  batch_.Add(tokens, 0, blocks_);
  model_.Forward(batch_, kv_->storage(), *workspace_);
  return model_.backend().status();
}

absl::Status WindowRunner::VisitLogits(size_t begin, size_t end, LogitsVisitor visit) {
  const size_t vocab = model_.config().vocab_size;
  for (size_t first = begin; first < end; first += kLogitRows) {
    std::vector<uint32_t> rows(std::min(kLogitRows, end - first));
    std::iota(rows.begin(), rows.end(), static_cast<uint32_t>(first));
    QL_ASSIGN_OR_RETURN(const absl::Span<const float> logits, model_.Logits(rows, *workspace_));
    for (size_t i = 0; i < rows.size(); ++i) visit(first + i, logits.subspan(i * vocab, vocab));
  }
  return absl::OkStatus();
}

}  // namespace quantloom
