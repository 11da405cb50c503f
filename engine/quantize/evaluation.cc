#include "engine/quantize/evaluation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "core/base/status.h"
#include "engine/model.h"
#include "engine/window_runner.h"
#include "kernels/cpu/ops.h"

namespace quantloom {
namespace {

// One scored position.
struct PositionMetrics {
  double nll_source = 0;  // nats
  double nll_packed = 0;
  double kl = 0;
  bool same_top = false;
};

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
  metrics.same_top =
      cpu::ArgMax(source.data(), source.size()) == cpu::ArgMax(packed.data(), packed.size());
  return metrics;
}

QualityMetrics Summarize(std::vector<PositionMetrics>& positions) {
  QualityMetrics metrics;
  double nll_source = 0, nll_packed = 0, kl = 0;
  uint64_t same = 0;
  for (const PositionMetrics& position : positions) {
    nll_source += position.nll_source;
    nll_packed += position.nll_packed;
    kl += position.kl;
    same += position.same_top ? 1 : 0;
  }
  const auto count = static_cast<double>(positions.size());
  metrics.scored_tokens = positions.size();
  metrics.perplexity_source = std::exp(nll_source / count);
  metrics.perplexity_packed = std::exp(nll_packed / count);
  metrics.kl_mean = kl / count;
  metrics.top1_agreement = static_cast<double>(same) / count;
  const size_t rank = std::min(positions.size() - 1, positions.size() * 99 / 100);
  std::nth_element(positions.begin(), positions.begin() + static_cast<std::ptrdiff_t>(rank),
                   positions.end(),
                   [](const PositionMetrics& a, const PositionMetrics& b) { return a.kl < b.kl; });
  metrics.kl_p99 = positions[rank].kl;
  return metrics;
}

}  // namespace

absl::StatusOr<QualityMetrics> CompareModels(const LoadedModel& source, const LoadedModel& packed,
                                             absl::Span<const int32_t> tokens, uint32_t windows,
                                             uint32_t window_tokens, ThreadTeam& team,
                                             const std::function<absl::Status(double)>& progress) {
  const size_t whole_windows = tokens.size() / window_tokens;
  if (whole_windows == 0) {
    return absl::InvalidArgumentError(absl::StrCat("evaluation text has ", tokens.size(),
                                                   " tokens, a window takes ", window_tokens));
  }
  const size_t count = windows == 0 ? whole_windows : std::min<size_t>(windows, whole_windows);
  QL_ASSIGN_OR_RETURN(auto source_runner,
                      WindowRunner::Create(source.model(), window_tokens, KvElement::kF32));
  QL_ASSIGN_OR_RETURN(auto packed_runner,
                      WindowRunner::Create(packed.model(), window_tokens, KvElement::kF16));

  // Targets window/2 .. window-1 are predicted from the position before each.
  const size_t first = window_tokens / 2 - 1, last = window_tokens - 1;
  const size_t vocabulary = source.config().vocab_size;
  std::vector<float> source_logits((last - first) * vocabulary);
  std::vector<float> packed_logits((last - first) * vocabulary);
  std::vector<PositionMetrics> positions;
  positions.reserve(count * (last - first));
  const auto run = [&](WindowRunner& runner, absl::Span<const int32_t> window,
                       std::vector<float>& logits) -> absl::Status {
    QL_RETURN_IF_ERROR(runner.Forward(window));
    runner.VisitLogits(first, last, [&](size_t position, absl::Span<const float> row) {
      std::copy(row.begin(), row.end(), logits.begin() + (position - first) * vocabulary);
    });
    return absl::OkStatus();
  };
  for (size_t w = 0; w < count; ++w) {
    QL_RETURN_IF_ERROR(progress(static_cast<double>(w) / static_cast<double>(count)));
    const absl::Span<const int32_t> window = tokens.subspan(w * window_tokens, window_tokens);
    QL_RETURN_IF_ERROR(run(*source_runner, window, source_logits));
    QL_RETURN_IF_ERROR(run(*packed_runner, window, packed_logits));
    const size_t base = positions.size();
    positions.resize(base + last - first);
    team.ParallelFor(last - first, 8, [&](size_t begin, size_t end, int) {
      for (size_t i = begin; i < end; ++i) {
        positions[base + i] = ComparePosition({source_logits.data() + i * vocabulary, vocabulary},
                                              {packed_logits.data() + i * vocabulary, vocabulary},
                                              window[first + i + 1]);
      }
    });
  }
  QL_RETURN_IF_ERROR(progress(1.0));
  return Summarize(positions);
}

}  // namespace quantloom
