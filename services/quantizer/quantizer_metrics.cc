#include "services/quantizer/quantizer_metrics.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "services/common/logging.h"

namespace quantloom {
namespace {

constexpr v1::JobState kStates[] = {v1::JOB_STATE_QUEUED, v1::JOB_STATE_RUNNING,
                                    v1::JOB_STATE_SUCCEEDED, v1::JOB_STATE_FAILED,
                                    v1::JOB_STATE_CANCELLED};

prometheus::ClientMetric GaugeValue(double value) {
  prometheus::ClientMetric metric;
  metric.gauge.value = value;
  return metric;
}

}  // namespace

std::string JobStateLabel(v1::JobState state) {
  const std::string name = v1::JobState_Name(state);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "JOB_STATE_"));
}

QuantizerMetrics::QuantizerMetrics(prometheus::Registry& registry)
    : weights_(prometheus::BuildCounter()
                   .Name("quantloom_weights_quantized_total")
                   .Help("Matrix entries encoded, by codec")
                   .Register(registry)),
      tensor_seconds_(prometheus::BuildHistogram()
                          .Name("quantloom_tensor_quantize_seconds")
                          .Help("Time to encode and store one tensor, by codec")
                          .Register(registry)),
      relative_error_(
          prometheus::BuildHistogram()
              .Name("quantloom_tensor_relative_error")
              .Help("Importance-weighted relative squared error of one tensor, by codec")
              .Register(registry)),
      job_duration_(prometheus::BuildHistogram()
                        .Name("quantloom_job_duration_seconds")
                        .Help("From the start of a job's work to its end, by final state")
                        .Register(registry)),
      resumes_(prometheus::BuildCounter()
                   .Name("quantloom_job_resumes_total")
                   .Help("Jobs taken up again after the service had stopped in the middle")
                   .Register(registry)
                   .Add({})) {}

void QuantizerMetrics::TensorEncoded(const std::string& codec, uint64_t weights, double seconds,
                                     double relative_error) {
  static const prometheus::Histogram::BucketBoundaries kSeconds = {
      0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 300};
  static const prometheus::Histogram::BucketBoundaries kErrors = {
      1e-6, 1e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1};
  weights_.Add({{"codec", codec}}).Increment(static_cast<double>(weights));
  tensor_seconds_.Add({{"codec", codec}}, kSeconds).Observe(seconds);
  relative_error_.Add({{"codec", codec}}, kErrors).Observe(relative_error);
}

void QuantizerMetrics::JobResumed() { resumes_.Increment(); }

void QuantizerMetrics::JobEnded(v1::JobState state, absl::Duration elapsed) {
  static const prometheus::Histogram::BucketBoundaries kSeconds = {
      1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 3 * 3600, 12 * 3600, 24 * 3600};
  job_duration_.Add({{"state", JobStateLabel(state)}}, kSeconds)
      .Observe(absl::ToDoubleSeconds(elapsed));
}

std::vector<prometheus::MetricFamily> JobGauges::Collect() const {
  const absl::StatusOr<JobStore::Statistics> statistics = store_.GetStatistics();
  if (!statistics.ok()) {
    LogWarning("cannot count jobs", {{"error", statistics.status().ToString()}});
    return {};
  }
  prometheus::MetricFamily jobs{
      "quantloom_jobs", "Jobs in the store, by state", prometheus::MetricType::Gauge, {}};
  for (const v1::JobState state : kStates) {
    const auto found = statistics->jobs.find(state);
    const int64_t count = found == statistics->jobs.end() ? 0 : found->second;
    prometheus::ClientMetric metric = GaugeValue(static_cast<double>(count));
    metric.label = {{"state", JobStateLabel(state)}};
    jobs.metric.push_back(std::move(metric));
  }
  const double age =
      statistics->oldest_queued
          ? std::max(0.0, absl::ToDoubleSeconds(absl::Now() - *statistics->oldest_queued))
          : 0.0;
  prometheus::MetricFamily queue_age{"quantloom_job_queue_age_seconds",
                                     "Time the oldest queued job has waited; 0 without one",
                                     prometheus::MetricType::Gauge,
                                     {GaugeValue(age)}};
  return {std::move(jobs), std::move(queue_age)};
}

}  // namespace quantloom
