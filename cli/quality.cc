#include "cli/quality.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/units.h"

namespace quantloom::cli {

using ::quantloom::v1::EvaluationWindow;
using ::quantloom::v1::QualityMetrics;

QualityMetrics Summarize(absl::Span<const EvaluationWindow> windows) {
  double nll_source = 0, nll_packed = 0, kl_sum = 0;
  uint64_t same = 0;
  std::vector<double> kl;
  for (const EvaluationWindow& window : windows) {
    nll_source += window.nll_source();
    nll_packed += window.nll_packed();
    same += window.same_top1();
    kl.insert(kl.end(), window.kl().begin(), window.kl().end());
  }
  QualityMetrics quality;
  if (kl.empty()) return quality;
  for (const double position : kl) kl_sum += position;
  const auto count = static_cast<double>(kl.size());
  quality.set_scored_tokens(kl.size());
  quality.set_perplexity_source(std::exp(nll_source / count));
  quality.set_perplexity_packed(std::exp(nll_packed / count));
  quality.set_kl_mean(kl_sum / count);
  quality.set_top1_agreement(static_cast<double>(same) / count);
  const auto rank = kl.begin() + static_cast<std::ptrdiff_t>(kl.size() * 99 / 100);
  std::nth_element(kl.begin(), rank, kl.end());
  quality.set_kl_p99(*rank);
  return quality;
}

void AddQuality(const QualityMetrics& quality,
                std::vector<std::pair<std::string, std::string>>& pairs) {
  const double ratio = quality.perplexity_source() > 0
                           ? quality.perplexity_packed() / quality.perplexity_source()
                           : 0;
  pairs.emplace_back("measured on",
                     absl::StrCat(quality.text_name(), " (", FormatGrouped(quality.scored_tokens()),
                                  " tokens scored)"));
  pairs.emplace_back("perplexity", absl::StrFormat("%.3f source, %.3f packed (%+.1f %%)",
                                                   quality.perplexity_source(),
                                                   quality.perplexity_packed(), 100 * (ratio - 1)));
  pairs.emplace_back("KL divergence", absl::StrFormat("%.4f nats mean, %.3f 99th percentile",
                                                      quality.kl_mean(), quality.kl_p99()));
  pairs.emplace_back("same top token", absl::StrFormat("%.1f %%", 100 * quality.top1_agreement()));
}

std::string FormatBitsPerWeight(double linear, double all) {
  return absl::StrFormat("%.3f linear layers, %.3f all tensors", linear, all);
}

}  // namespace quantloom::cli
