#include "services/server/serving_metrics.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace quantloom {
namespace {

using prometheus::MetricType;

// Seconds. A token takes milliseconds; a first token up to a long prompt's prefill and queue.
const prometheus::Histogram::BucketBoundaries& TokenBuckets() {
  static const prometheus::Histogram::BucketBoundaries buckets = {
      0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03,
      0.05,  0.075, 0.1,   0.15,  0.25,  0.5,  1,     2.5,  5};
  return buckets;
}

const prometheus::Histogram::BucketBoundaries& WaitBuckets() {
  static const prometheus::Histogram::BucketBoundaries buckets = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120};
  return buckets;
}

prometheus::Family<prometheus::Histogram>& HistogramFamily(prometheus::Registry& registry,
                                                           const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

double BlockShare(uint32_t blocks, const EngineStats& stats) {
  return blocks / std::max(1.0, static_cast<double>(stats.kv_blocks_total));
}

struct EngineMetric {
  const char* name;
  const char* help;
  MetricType type;
  double (*read)(const EngineStats&);
};

constexpr EngineMetric kEngineMetrics[] = {
    {"quantloom_prompt_tokens_total", "Prompt tokens computed", MetricType::Counter,
     [](const EngineStats& stats) { return static_cast<double>(stats.prompt_tokens); }},
    {"quantloom_prefix_cache_hit_tokens_total",
     "Prompt tokens not computed, since the prefix cache had them", MetricType::Counter,
     [](const EngineStats& stats) { return static_cast<double>(stats.prefix_hit_tokens); }},
    {"quantloom_generated_tokens_total", "Tokens generated", MetricType::Counter,
     [](const EngineStats& stats) { return static_cast<double>(stats.generated_tokens); }},
    {"quantloom_preemptions_total", "Requests that lost their KV blocks and were recomputed",
     MetricType::Counter,
     [](const EngineStats& stats) { return static_cast<double>(stats.preemptions); }},
    {"quantloom_weight_bytes_read_total", "Bytes of weights read by forward passes",
     MetricType::Counter,
     [](const EngineStats& stats) { return static_cast<double>(stats.weight_bytes_read); }},
    {"quantloom_prefill_step_seconds_total",
     "Time that the device worked on forward passes with prompt tokens among others",
     MetricType::Counter,
     [](const EngineStats& stats) { return absl::ToDoubleSeconds(stats.prefill_time); }},
    {"quantloom_decode_step_seconds_total",
     "Time that the device worked on forward passes of one token of each stream",
     MetricType::Counter,
     [](const EngineStats& stats) { return absl::ToDoubleSeconds(stats.decode_time); }},
    {"quantloom_requests_running", "Requests in the running batch", MetricType::Gauge,
     [](const EngineStats& stats) { return static_cast<double>(stats.requests_running); }},
    {"quantloom_requests_waiting", "Requests queued for the batch", MetricType::Gauge,
     [](const EngineStats& stats) { return static_cast<double>(stats.requests_waiting); }},
    {"quantloom_batch_size", "Tokens in the last step's batch", MetricType::Gauge,
     [](const EngineStats& stats) { return static_cast<double>(stats.last_batch_tokens); }},
    {"quantloom_kv_cache_usage_ratio", "Share of the KV cache's blocks that requests use",
     MetricType::Gauge,
     [](const EngineStats& stats) { return BlockShare(stats.kv_blocks_used, stats); }},
    {"quantloom_kv_cache_cached_ratio",
     "Share of the KV cache's blocks that no request uses and the prefix cache keeps",
     MetricType::Gauge,
     [](const EngineStats& stats) { return BlockShare(stats.kv_blocks_cached, stats); }},
};

prometheus::ClientMetric Labelled(std::vector<prometheus::ClientMetric::Label> labels,
                                  MetricType type, double value) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

}  // namespace

ServingMetrics::ServingMetrics(prometheus::Registry& registry)
    : queue_time_(HistogramFamily(registry, "quantloom_queue_time_seconds",
                                  "From a request's submission to its first step")),
      time_to_first_token_(HistogramFamily(registry, "quantloom_time_to_first_token_seconds",
                                           "From a request's arrival to its first token")),
      inter_token_latency_(HistogramFamily(registry, "quantloom_inter_token_latency_seconds",
                                           "Between consecutive tokens of a request")) {}

StreamMetrics ServingMetrics::ForModel(const std::string& model) {
  return {queue_time_.Add({{"model", model}}, WaitBuckets()),
          time_to_first_token_.Add({{"model", model}}, WaitBuckets()),
          inter_token_latency_.Add({{"model", model}}, TokenBuckets())};
}

std::vector<prometheus::MetricFamily> EngineMetrics::Collect() const {
  const std::vector<ModelRegistry::Statistics> models = models_.GetStatistics();

  std::vector<prometheus::MetricFamily> families;
  for (const EngineMetric& metric : kEngineMetrics) {
    prometheus::MetricFamily& family =
        families.emplace_back(prometheus::MetricFamily{metric.name, metric.help, metric.type, {}});
    for (const auto& model : models) {
      family.metric.push_back(
          Labelled({{"model", model.description.name()}}, metric.type, metric.read(model.engine)));
    }
  }
  prometheus::MetricFamily& memory = families.emplace_back(
      prometheus::MetricFamily{"quantloom_model_memory_bytes",
                               "Weights, KV cache and activations of all its versions",
                               MetricType::Gauge,
                               {}});
  for (const auto& model : models) {
    memory.metric.push_back(Labelled({{"model", model.description.name()}}, MetricType::Gauge,
                                     static_cast<double>(model.memory)));
  }
  families.push_back(
      {"quantloom_memory_limit_bytes",
       "What all models together may take; 0: no limit",
       MetricType::Gauge,
       {Labelled({}, MetricType::Gauge, static_cast<double>(models_.options().memory_limit))}});
  prometheus::MetricFamily& info = families.emplace_back(prometheus::MetricFamily{
      "quantloom_model_info", "1 for each loaded model", MetricType::Gauge, {}});
  for (const auto& model : models) {
    const std::string& recipe = model.description.recipe();
    info.metric.push_back(
        Labelled({{"model", model.description.name()},
                  {"codec", recipe.substr(0, recipe.find(':'))},
                  {"bits_per_weight", absl::StrCat(model.description.linear_bits_per_weight())}},
                 MetricType::Gauge, 1));
  }
  return families;
}

}  // namespace quantloom
