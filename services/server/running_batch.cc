#include "services/server/running_batch.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "services/common/proto_time.h"

namespace quantloom {
namespace {

constexpr size_t kMaxSequences = 1000;

v1::Priority ToMessage(Priority priority) {
  switch (priority) {
    case Priority::kLow:
      return v1::PRIORITY_LOW;
    case Priority::kNormal:
      return v1::PRIORITY_NORMAL;
    case Priority::kHigh:
      break;
  }
  return v1::PRIORITY_HIGH;
}

v1::SequencePhase ToMessage(RequestPhase phase) {
  switch (phase) {
    case RequestPhase::kWaiting:
      return v1::SEQUENCE_PHASE_WAITING;
    case RequestPhase::kPrefill:
      return v1::SEQUENCE_PHASE_PREFILL;
    case RequestPhase::kDecode:
      break;
  }
  return v1::SEQUENCE_PHASE_DECODE;
}

v1::SequenceState ToMessage(const RequestSnapshot& request) {
  v1::SequenceState message;
  message.set_request_id(request.request_id);
  message.set_client(request.standing.client);
  message.set_priority(ToMessage(request.standing.priority));
  message.set_phase(ToMessage(request.phase));
  message.set_scoring(request.scoring);
  message.set_paused(request.paused);
  message.set_preempted(request.preempted);
  message.set_prompt_tokens(request.prompt_tokens);
  message.set_generated_tokens(request.generated_tokens);
  message.set_cached_tokens(request.cached_tokens);
  message.set_computed_tokens(request.computed_tokens);
  message.set_kv_blocks(request.kv_blocks);
  *message.mutable_age() = ToProto(request.age);
  return message;
}

void SetCounts(const EngineStats& stats, v1::EngineState& message) {
  message.set_running_requests(stats.requests_running);
  message.set_waiting_requests(stats.requests_waiting);
  message.set_steps(stats.steps);
  message.set_step_tokens(stats.last_batch_tokens);
  message.set_preemptions(stats.preemptions);
  message.set_kv_blocks_total(stats.kv_blocks_total);
  message.set_kv_blocks_used(stats.kv_blocks_used);
  message.set_kv_blocks_cached(stats.kv_blocks_cached);
}

}  // namespace

absl::StatusOr<v1::RunningBatch> DescribeRunningBatch(const v1::GetRunningBatchRequest& request,
                                                      ModelRegistry& models, absl::Time deadline) {
  if (!request.model().empty()) QL_RETURN_IF_ERROR(models.Acquire(request.model()).status());
  const std::vector<ModelRegistry::Lease> current = models.Loaded();
  std::vector<ModelRegistry::Lease> versions = models.Versions();
  std::stable_sort(versions.begin(), versions.end(),
                   [](const auto& a, const auto& b) { return a->name < b->name; });
  v1::RunningBatch batch;
  for (const ModelRegistry::Lease& model : versions) {
    if (!request.model().empty() && model->name != request.model()) continue;
    v1::EngineState& message = *batch.add_engines();
    message.set_model(model->name);
    message.set_manifest_sha256(model->description.manifest_sha256());
    message.set_ending(std::find(current.begin(), current.end(), model) == current.end());
    message.set_kv_block_tokens(models.options().engine.kv_block_tokens);
    const auto requests = model->engine->Snapshot(kMaxSequences, deadline);
    if (!requests.has_value()) {
      return absl::DeadlineExceededError("an engine's step took longer than the deadline");
    }
    SetCounts(model->engine->stats(), message);
    for (const RequestSnapshot& one : *requests) *message.add_sequences() = ToMessage(one);
  }
  return batch;
}

}  // namespace quantloom
