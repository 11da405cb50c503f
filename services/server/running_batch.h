// What every engine is doing, as ModelService.GetRunningBatch tells it.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quantloom/v1/model.pb.h"
#include "services/server/model_registry.h"

namespace quantloom {

// Waits for one step of each engine, not beyond `deadline`. Errors: GetRunningBatch's.
absl::StatusOr<v1::RunningBatch> DescribeRunningBatch(const v1::GetRunningBatchRequest& request,
                                                      ModelRegistry& models, absl::Time deadline);

}  // namespace quantloom
