// What the server tells Prometheus about generation, per model. Request counts and durations are
// services/common/request_metrics.h's.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>
#include <vector>

#include "services/server/model_registry.h"

namespace quantloom {

// The histograms one model's streams report to.
struct StreamMetrics {
  prometheus::Histogram& queue_time;
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token_latency;
};

// Thread-safe.
class ServingMetrics {
 public:
  // Makes the histogram families.
  explicit ServingMetrics(prometheus::Registry& registry);
  StreamMetrics ForModel(const std::string& model);

 private:
  prometheus::Family<prometheus::Histogram>& queue_time_;
  prometheus::Family<prometheus::Histogram>& time_to_first_token_;
  prometheus::Family<prometheus::Histogram>& inter_token_latency_;
};

// Counters and gauges of the engines of all loaded models, read at each scrape.
class EngineMetrics final : public prometheus::Collectable {
 public:
  // `models` must outlive the scrapes.
  explicit EngineMetrics(ModelRegistry& models) : models_(models) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  ModelRegistry& models_;
};

}  // namespace quantloom
