#include "cli/load_report.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/table.h"
#include "cli/units.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {
namespace {

struct NamedLatency {
  const char* key;
  const char* title;
  const std::vector<double>& sample;
};

std::vector<NamedLatency> Latencies(const LoadSummary& summary) {
  return {{"time_to_first_token", "time to first token", summary.time_to_first_token},
          {"inter_token", "between tokens", summary.inter_token},
          {"end_to_end", "whole request", summary.end_to_end},
          {"queue", "in the server's queue", summary.queue_time},
          {"send_lag", "sent late", summary.send_lag}};
}

std::string Milliseconds(double seconds) {
  const double ms = 1e3 * seconds;
  return absl::StrFormat("%.*f", ms < 9.995 ? 2 : ms < 99.95 ? 1 : 0, ms);
}

std::string Counts(const LoadSummary& summary) {
  std::vector<std::string> parts = {absl::StrCat(FormatGrouped(summary.sent), " sent")};
  for (const auto& [code, count] : summary.by_code) {
    parts.push_back(absl::StrCat(FormatGrouped(count), " ", StatusName(code)));
  }
  if (summary.cancelled > 0) {
    parts.push_back(absl::StrCat(FormatGrouped(summary.cancelled), " cancelled as asked for"));
  }
  if (summary.stopped > 0) {
    parts.push_back(absl::StrCat(FormatGrouped(summary.stopped), " interrupted"));
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace

std::string StatusName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

std::string RenderLoad(const LoadResult& result, const LoadSummary& summary, bool color) {
  const uint64_t total = summary.prompt_tokens + summary.generated_tokens;
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"requests", Counts(summary)},
      {"measured",
       absl::StrCat(
           FormatElapsed(absl::Seconds(summary.seconds)),
           result.warmup > 0
               ? absl::StrCat(" after ", FormatElapsed(absl::Seconds(result.warmup)), " of warm-up")
               : "",
           ", ", absl::StrFormat("%.2f", summary.Rate(summary.ok())), " requests/s OK")},
      {"tokens", absl::StrCat(FormatGrouped(summary.prompt_tokens), " of prompts (",
                              FormatGrouped(summary.cached_tokens), " cached), ",
                              FormatGrouped(summary.generated_tokens), " generated")},
      {"tokens/s", absl::StrFormat("%.1f of prompts + %.1f generated = %.1f",
                                   summary.Rate(summary.prompt_tokens),
                                   summary.Rate(summary.generated_tokens), summary.Rate(total))}};
  for (const auto& [code, message] : result.messages) {
    pairs.emplace_back(StatusName(code), message);
  }
  constexpr Table::Align kRight = Table::Align::kRight;
  Table table({{"MILLISECONDS"},
               {"MEAN", kRight},
               {"P50", kRight},
               {"P90", kRight},
               {"P95", kRight},
               {"P99", kRight},
               {"MAX", kRight}});
  for (const NamedLatency& named : Latencies(summary)) {
    if (named.sample.empty()) continue;
    const Latency latency = Latency::Of(named.sample);
    table.Add({named.title, Milliseconds(latency.mean), Milliseconds(latency.p50),
               Milliseconds(latency.p90), Milliseconds(latency.p95), Milliseconds(latency.p99),
               Milliseconds(latency.max)});
  }
  return absl::StrCat(RenderPairs(pairs), "\n", table.Render(color));
}

nlohmann::ordered_json LoadJson(const LoadResult& result, const LoadSummary& summary,
                                nlohmann::ordered_json settings) {
  nlohmann::ordered_json json = {{"settings", std::move(settings)}};
  nlohmann::ordered_json by_status = nlohmann::ordered_json::object();
  for (const auto& [code, count] : summary.by_code) by_status[StatusName(code)] = count;
  json["requests"] = {{"sent", summary.sent},
                      {"ok", summary.ok()},
                      {"by_status", std::move(by_status)},
                      {"cancelled_as_asked", summary.cancelled},
                      {"interrupted", summary.stopped}};
  nlohmann::ordered_json messages = nlohmann::ordered_json::object();
  for (const auto& [code, message] : result.messages) messages[StatusName(code)] = message;
  json["first_messages"] = std::move(messages);
  json["interrupted"] = result.stopped;
  json["measured_seconds"] = summary.seconds;
  json["tokens"] = {{"prompt", summary.prompt_tokens},
                    {"cached", summary.cached_tokens},
                    {"generated", summary.generated_tokens}};
  json["requests_per_second"] = summary.Rate(summary.ok());
  json["tokens_per_second"] = {
      {"prompt", summary.Rate(summary.prompt_tokens)},
      {"generated", summary.Rate(summary.generated_tokens)},
      {"total", summary.Rate(summary.prompt_tokens + summary.generated_tokens)}};
  for (const NamedLatency& named : Latencies(summary)) {
    const Latency latency = Latency::Of(named.sample);
    json["latency_seconds"][named.key] = {{"count", latency.count}, {"mean", latency.mean},
                                          {"p50", latency.p50},     {"p90", latency.p90},
                                          {"p95", latency.p95},     {"p99", latency.p99},
                                          {"max", latency.max}};
  }
  nlohmann::ordered_json prompt = nlohmann::ordered_json::array();
  nlohmann::ordered_json generated = nlohmann::ordered_json::array();
  for (const Throughput& moment : summary.throughput) {
    prompt.push_back(moment.prompt);
    generated.push_back(moment.generated);
  }
  json["throughput"] = {{"interval_seconds", summary.throughput_interval},
                        {"prompt_tokens_per_second", std::move(prompt)},
                        {"generated_tokens_per_second", std::move(generated)}};
  return json;
}

}  // namespace quantloom::cli
