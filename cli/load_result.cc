#include "cli/load_result.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quantloom::cli {
namespace {

// Intervals of the throughput over time: enough for a plot, few enough to smooth single steps.
constexpr double kMaxIntervals = 120;
constexpr double kLeastInterval = 0.5;  // seconds

size_t TickOf(double time) { return static_cast<size_t>(std::llround(time / LoadResult::kTick)); }

// Over the whole run, warm-up included: the plot shows both.
void FillThroughput(const LoadResult& result, LoadSummary& summary) {
  double last = result.end;
  for (const RequestRecord& request : result.requests) last = std::max(last, request.end);
  const double least = std::max(last / kMaxIntervals, kLeastInterval);
  const auto ticks = static_cast<size_t>(std::ceil(least / LoadResult::kTick - 1e-9));
  summary.throughput_interval = static_cast<double>(ticks) * LoadResult::kTick;
  const auto intervals = static_cast<size_t>(last / summary.throughput_interval) + 1;
  for (size_t i = 0; i < intervals; ++i) {
    summary.throughput.push_back(
        {.time = (static_cast<double>(i) + 0.5) * summary.throughput_interval,
         .prompt = 0,
         .generated = 0});
  }
  for (size_t tick = 0; tick < result.generated_by_tick.size(); ++tick) {
    summary.throughput[std::min(tick / ticks, intervals - 1)].generated +=
        result.generated_by_tick[tick] / summary.throughput_interval;
  }
  for (const RequestRecord& request : result.requests) {
    if (!request.any_token()) continue;
    const auto interval = static_cast<size_t>(request.first_token / summary.throughput_interval);
    summary.throughput[std::min(interval, intervals - 1)].prompt +=
        request.prompt_tokens / summary.throughput_interval;
  }
}

void CountTokens(const LoadResult& result, LoadSummary& summary) {
  for (const RequestRecord& request : result.requests) {
    if (!request.any_token() || request.first_token < result.warmup ||
        request.first_token > result.end) {
      continue;
    }
    summary.prompt_tokens += request.prompt_tokens;
    summary.cached_tokens += request.cached_tokens;
  }
  const std::vector<uint32_t>& ticks = result.generated_by_tick;
  const size_t begin = std::min(TickOf(result.warmup), ticks.size());
  // The last tick is one that has just begun.
  const size_t end = std::clamp(TickOf(result.end) + 1, begin, ticks.size());
  summary.generated_tokens =
      std::accumulate(ticks.begin() + static_cast<std::ptrdiff_t>(begin),
                      ticks.begin() + static_cast<std::ptrdiff_t>(end), uint64_t{0});
}

}  // namespace

Latency Latency::Of(std::vector<double> sample) {
  Latency latency;
  if (sample.empty()) return latency;
  std::sort(sample.begin(), sample.end());
  const auto rank = [&](double share) {
    const auto n = static_cast<size_t>(std::ceil(share * static_cast<double>(sample.size())));
    return sample[std::max<size_t>(n, 1) - 1];
  };
  latency.count = sample.size();
  latency.mean =
      std::accumulate(sample.begin(), sample.end(), 0.0) / static_cast<double>(sample.size());
  latency.p50 = rank(0.5);
  latency.p90 = rank(0.9);
  latency.p95 = rank(0.95);
  latency.p99 = rank(0.99);
  latency.max = sample.back();
  return latency;
}

uint64_t LoadSummary::ok() const {
  const auto found = by_code.find(grpc::StatusCode::OK);
  return found == by_code.end() ? 0 : found->second;
}

double LoadSummary::Rate(uint64_t count) const {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

LoadSummary LoadSummary::Of(const LoadResult& result) {
  LoadSummary summary;
  summary.seconds = std::max(0.0, result.end - result.warmup);
  for (const RequestRecord& request : result.requests) {
    if (!request.measured) continue;
    ++summary.sent;
    summary.send_lag.push_back(request.sent - request.due);
    if (request.cancelled) {
      ++summary.cancelled;
    } else if (request.stopped) {
      ++summary.stopped;
    } else {
      ++summary.by_code[request.code];
    }
    if (request.code != grpc::StatusCode::OK) continue;
    if (request.any_token()) {
      summary.time_to_first_token.push_back(request.first_token - request.due);
    }
    summary.end_to_end.push_back(request.end - request.due);
    summary.queue_time.push_back(request.queue_time);
  }
  summary.inter_token.assign(result.gaps.begin(), result.gaps.end());
  CountTokens(result, summary);
  FillThroughput(result, summary);
  return summary;
}

}  // namespace quantloom::cli
