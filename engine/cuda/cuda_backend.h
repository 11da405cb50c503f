// The CUDA backend: kernels/cuda's operators on one stream of one device.
//
// A result depends on its row, the parameters and its sequence's cached positions alone, as on the
// CPU; the values are not the CPU's (activations have one scale per 128 columns, sums another
// order), but as close (docs/cuda.md).
//
// Work is asynchronous; Read waits for it. A decode step is one graph that is recorded once for
// every number of rows (engine/cuda/cuda_batch.h).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "engine/backend.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/kernel_table.h"

namespace quantloom {

class CudaContext;  // engine/cuda/cuda_context.h

// `team` rearranges weights while they are loaded; it and `kernels` must outlive the backend.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    std::unique_ptr<cuda::DeviceRuntime> runtime, const cuda::KernelTable& kernels,
    ThreadTeam& team);
// On a context that its maker goes on using, beside the backend.
std::unique_ptr<Backend> CreateCudaBackend(std::unique_ptr<CudaContext> context, ThreadTeam& team);

}  // namespace quantloom
