// What a device's memory is used for, as Prometheus metrics of both services.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <vector>

#include "engine/device.h"

namespace quantloom {

// quantloom_device_memory_total_bytes{device} and quantloom_device_memory_used_bytes{device}, by
// this process and others, asked from the device at each scrape. 0 for a device that uses the
// host's memory; of one that has failed the second is left out.
class DeviceMemoryGauges final : public prometheus::Collectable {
 public:
  // `device` must outlive the object.
  explicit DeviceMemoryGauges(const Device& device) : device_(device) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Device& device_;
};

}  // namespace quantloom
