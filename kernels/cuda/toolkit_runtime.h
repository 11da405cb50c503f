// DeviceRuntime over the CUDA toolkit.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_runtime.h"

namespace quantloom::cuda {

// Device `index` of those that CUDA shows. FAILED_PRECONDITION for no driver or one that is too
// old, no device, and a compute capability that this build has no code for; INVALID_ARGUMENT for an
// index out of range.
absl::StatusOr<std::unique_ptr<DeviceRuntime>> OpenDevice(int index);

}  // namespace quantloom::cuda
