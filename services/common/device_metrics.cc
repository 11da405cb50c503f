#include "services/common/device_metrics.h"

#include <utility>

namespace quantloom {

std::vector<prometheus::MetricFamily> DeviceMemoryGauges::Collect() const {
  const auto sample = [this](uint64_t bytes) {
    prometheus::ClientMetric metric;
    metric.label = {{"device", device_.name()}};
    metric.gauge.value = static_cast<double>(bytes);
    return metric;
  };
  const uint64_t total = device_.memory_bytes();
  prometheus::MetricFamily all{"quantloom_device_memory_total_bytes",
                               "The device's own memory; 0: it uses the host's",
                               prometheus::MetricType::Gauge,
                               {sample(total)}};
  prometheus::MetricFamily used{"quantloom_device_memory_used_bytes",
                                "What of that is taken, by this process and others",
                                prometheus::MetricType::Gauge,
                                {}};
  const absl::StatusOr<uint64_t> free = device_.free_memory_bytes();
  if (free.ok()) used.metric.push_back(sample(total - *free));
  return {std::move(all), std::move(used)};
}

}  // namespace quantloom
