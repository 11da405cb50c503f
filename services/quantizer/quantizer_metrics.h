// The quantizer's Prometheus metrics.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "quantloom/v1/quantization.pb.h"
#include "services/quantizer/job_store.h"

namespace quantloom {

// "queued", "running", ...: the label of a state.
std::string JobStateLabel(v1::JobState state);

// What happens to jobs and tensors, counted when it happens. Thread-safe.
class QuantizerMetrics {
 public:
  explicit QuantizerMetrics(prometheus::Registry& registry);

  // A tensor was encoded. `codec` is a registered codec's name.
  void TensorEncoded(const std::string& codec, uint64_t weights, double seconds,
                     double relative_error);
  void JobResumed();
  // `elapsed` from the start of work, interruptions included.
  void JobEnded(v1::JobState state, absl::Duration elapsed);

 private:
  prometheus::Family<prometheus::Counter>& weights_;
  prometheus::Family<prometheus::Histogram>& tensor_seconds_;
  prometheus::Family<prometheus::Histogram>& relative_error_;
  prometheus::Family<prometheus::Histogram>& job_duration_;
  prometheus::Counter& resumes_;
};

// quantloom_jobs{state} and quantloom_job_queue_age_seconds, read from the store at each scrape.
class JobGauges final : public prometheus::Collectable {
 public:
  explicit JobGauges(JobStore& store) : store_(store) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  JobStore& store_;
};

}  // namespace quantloom
