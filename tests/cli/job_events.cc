#include "tests/cli/job_events.h"

#include "absl/strings/str_cat.h"

namespace quantloom::cli {

v1::QuantizeEvent EventIn(v1::JobState state, uint64_t sequence) {
  v1::QuantizeEvent event;
  event.set_sequence(sequence);
  event.mutable_time()->set_seconds(1'700'000'000 + static_cast<int64_t>(sequence));
  v1::Job& job = *event.mutable_job();
  job.set_name(kJobName);
  job.set_state(state);
  job.set_last_sequence(sequence);
  job.mutable_request()->set_source("tiny");
  job.mutable_request()->set_output("tiny-2bit");
  job.mutable_request()->set_recipe("icquant:bits=2");
  job.mutable_create_time()->set_seconds(1'700'000'000);
  if (state == v1::JOB_STATE_SUCCEEDED) {
    job.mutable_progress()->set_device("cuda:0");
    v1::QuantizeResult& result = *job.mutable_result();
    result.set_path("/models/tiny-2bit");
    result.set_linear_bits_per_weight(2.3412);
    result.set_bits_per_weight(3.912);
    result.set_packed_bytes(52'300'000);
    result.mutable_elapsed()->set_seconds(134);
    v1::QualityMetrics& quality = *result.mutable_quality();
    quality.set_text_name("inline");
    quality.set_scored_tokens(10'240);
    quality.set_perplexity_source(16);
    quality.set_perplexity_packed(20);
    quality.set_kl_mean(0.25);
    quality.set_kl_p99(1.5);
    quality.set_top1_agreement(0.755);
  } else if (state == v1::JOB_STATE_FAILED) {
    job.mutable_error()->set_code(8);
    job.mutable_error()->set_message("no space left on device");
  }
  return event;
}

v1::QuantizeEvent EncodingEvent(uint64_t sequence) {
  v1::QuantizeEvent event = EventIn(v1::JOB_STATE_RUNNING, sequence);
  v1::JobProgress& progress = *event.mutable_job()->mutable_progress();
  progress.set_phase(v1::JOB_PHASE_ENCODING);
  progress.set_phase_fraction(static_cast<double>(sequence) / 100);
  progress.set_tensor(absl::StrCat("model.layers.", sequence, ".mlp.down_proj.weight"));
  progress.set_tensors_done(static_cast<uint32_t>(sequence));
  progress.set_tensors_total(100);
  progress.set_bits_per_weight(2.34);
  return event;
}

}  // namespace quantloom::cli
