#include "engine/quantize/evaluation.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/base/status.h"
#include "engine/model.h"
#include "kernels/cpu/ops.h"

namespace quantloom {
namespace {

constexpr uint64_t kDefaultWindowTokens = 512;
// Positions whose logits are in memory at a time: 32 of 128k tokens are 16 MB a model.
constexpr size_t kLogitRows = 32;

// One scored position.
struct PositionMetrics {
  double nll_source = 0;  // nats
  double nll_packed = 0;
  double kl = 0;
  bool same_top1 = false;
};

// From both models' logits at a position, and the token that follows it.
PositionMetrics ComparePosition(absl::Span<const float> source, absl::Span<const float> packed,
                                int32_t target) {
  const float source_norm = cpu::LogSumExp(source.data(), source.size());
  const float packed_norm = cpu::LogSumExp(packed.data(), packed.size());
  PositionMetrics metrics;
  metrics.nll_source = static_cast<double>(source_norm) - source[target];
  metrics.nll_packed = static_cast<double>(packed_norm) - packed[target];
  double kl = 0;
  for (size_t i = 0; i < source.size(); ++i) {
    const double log_p = static_cast<double>(source[i]) - source_norm;
    const double log_q = static_cast<double>(packed[i]) - packed_norm;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  metrics.kl = std::max(kl, 0.0);  // rounding can leave a tiny negative value
  metrics.same_top1 =
      cpu::ArgMax(source.data(), source.size()) == cpu::ArgMax(packed.data(), packed.size());
  return metrics;
}

// Whether every token id stands for the same bytes in both models.
absl::Status CheckSameVocabulary(const LoadedModel& source, const LoadedModel& packed) {
  const uint64_t source_size = source.config().vocab_size;
  const uint64_t packed_size = packed.config().vocab_size;
  if (source_size != packed_size) {
    return absl::InvalidArgumentError(absl::StrCat("the source's vocabulary has ", source_size,
                                                   " tokens, the packed model's ", packed_size));
  }
  for (int32_t id = 0; static_cast<uint64_t>(id) < source_size; ++id) {
    if (source.tokenizer().TokenBytes(id) != packed.tokenizer().TokenBytes(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the source and the packed model have different vocabularies: token ", id,
                       " is not the same in both"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint32_t> ResolveWindowTokens(uint32_t asked, uint64_t context) {
  if (asked == 0) return static_cast<uint32_t>(std::min(kDefaultWindowTokens, context));
  if (asked >= kMinWindowTokens && asked <= context) return asked;
  return absl::InvalidArgumentError(absl::StrCat(asked, " is outside ", kMinWindowTokens, " .. ",
                                                 context, ", the model's context length"));
}

absl::StatusOr<uint32_t> CountWindows(size_t tokens, uint32_t asked, uint32_t window_tokens) {
  const auto whole = static_cast<uint32_t>(tokens / window_tokens);
  if (whole == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", tokens, " tokens, a window takes ", window_tokens));
  }
  return asked == 0 ? whole : std::min(asked, whole);
}

absl::StatusOr<std::unique_ptr<ModelComparison>> ModelComparison::Create(const LoadedModel& source,
                                                                         const LoadedModel& packed,
                                                                         uint32_t window_tokens,
                                                                         ThreadTeam& team) {
  QL_RETURN_IF_ERROR(CheckSameVocabulary(source, packed));
  const size_t vocabulary = source.config().vocab_size;
  std::unique_ptr<ModelComparison> comparison(new ModelComparison(window_tokens, vocabulary, team));
  QL_ASSIGN_OR_RETURN(comparison->source_,
                      WindowRunner::Create(source.model(), window_tokens, KvElement::kF32));
  QL_ASSIGN_OR_RETURN(comparison->packed_,
                      WindowRunner::Create(packed.model(), window_tokens, KvElement::kF16));
  comparison->source_logits_.resize(kLogitRows * vocabulary);
  comparison->packed_logits_.resize(kLogitRows * vocabulary);
  return comparison;
}

absl::StatusOr<WindowMetrics> ModelComparison::Compare(absl::Span<const int32_t> window) {
  if (window.size() != window_tokens_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a window of ", window.size(), " tokens, expected ", window_tokens_));
  }
  QL_RETURN_IF_ERROR(source_->Forward(window));
  QL_RETURN_IF_ERROR(packed_->Forward(window));
  WindowMetrics metrics;
  std::vector<PositionMetrics> positions(kLogitRows);
  // Targets window/2 .. window-1 are predicted from the position before each.
  const size_t end = window_tokens_ - 1;
  for (size_t first = window_tokens_ / 2 - 1; first < end; first += kLogitRows) {
    const size_t count = std::min(kLogitRows, end - first);
    const auto read = [&](WindowRunner& runner, std::vector<float>& logits) {
      return runner.VisitLogits(
          first, first + count, [&](size_t position, absl::Span<const float> row) {
            std::copy(row.begin(), row.end(), logits.data() + (position - first) * vocabulary_);
          });
    };
    QL_RETURN_IF_ERROR(read(*source_, source_logits_));
    QL_RETURN_IF_ERROR(read(*packed_, packed_logits_));
    team_.ParallelFor(count, 1, [&](size_t begin, size_t stop, int) {
      for (size_t i = begin; i < stop; ++i) {
        positions[i] = ComparePosition({source_logits_.data() + i * vocabulary_, vocabulary_},
                                       {packed_logits_.data() + i * vocabulary_, vocabulary_},
                                       window[first + i + 1]);
      }
    });
    for (size_t i = 0; i < count; ++i) {
      metrics.nll_source += positions[i].nll_source;
      metrics.nll_packed += positions[i].nll_packed;
      metrics.kl.push_back(positions[i].kl);
      metrics.same_top1 += positions[i].same_top1 ? 1 : 0;
    }
  }
  return metrics;
}

QualityMetrics Summarize(absl::Span<const WindowMetrics> windows) {
  double nll_source = 0, nll_packed = 0, kl_sum = 0;
  uint64_t same = 0;
  std::vector<double> kl;
  for (const WindowMetrics& window : windows) {
    nll_source += window.nll_source;
    nll_packed += window.nll_packed;
    same += window.same_top1;
    kl.insert(kl.end(), window.kl.begin(), window.kl.end());
  }
  QualityMetrics metrics;
  if (kl.empty()) return metrics;
  for (const double position : kl) kl_sum += position;
  const auto count = static_cast<double>(kl.size());
  metrics.scored_tokens = kl.size();
  metrics.perplexity_source = std::exp(nll_source / count);
  metrics.perplexity_packed = std::exp(nll_packed / count);
  metrics.kl_mean = kl_sum / count;
  metrics.top1_agreement = static_cast<double>(same) / count;
  const auto rank = kl.begin() + static_cast<std::ptrdiff_t>(kl.size() * 99 / 100);
  std::nth_element(kl.begin(), rank, kl.end());
  metrics.kl_p99 = *rank;
  return metrics;
}

absl::StatusOr<QualityMetrics> CompareModels(const LoadedModel& source, const LoadedModel& packed,
                                             absl::Span<const int32_t> tokens, uint32_t windows,
                                             uint32_t window_tokens, ThreadTeam& team,
                                             const std::function<absl::Status(double)>& progress) {
  QL_ASSIGN_OR_RETURN(const uint32_t count, CountWindows(tokens.size(), windows, window_tokens));
  QL_ASSIGN_OR_RETURN(const auto comparison,
                      ModelComparison::Create(source, packed, window_tokens, team));
  std::vector<WindowMetrics> metrics(count);
  for (uint32_t w = 0; w < count; ++w) {
    QL_RETURN_IF_ERROR(progress(static_cast<double>(w) / static_cast<double>(count)));
    QL_ASSIGN_OR_RETURN(
        metrics[w], comparison->Compare(tokens.subspan(size_t{w} * window_tokens, window_tokens)));
  }
  QL_RETURN_IF_ERROR(progress(1.0));
  return Summarize(metrics);
}

}  // namespace quantloom
