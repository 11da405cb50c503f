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
#include "kernels/cuda/dense_library.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/kernel_table.h"

namespace quantloom {

class CudaContext;  // engine/cuda/cuda_context.h

// Rows of a step from which on a dense library multiplies, where the backend has one: a matrix in
// fp16 is its product with 128 tokens (kernels/cuda/device/expand_kernel.h), which with fewer rows
// costs more than is saved.
inline constexpr size_t kDenseLibraryRows = 256;

// `team` rearranges weights while they are loaded; it and `kernels` must outlive the backend. With
// `dense`, products of many rows are that library's, of matrices expanded to fp16: then a row's
// result depends on how many rows its step has.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    std::unique_ptr<cuda::DeviceRuntime> runtime, const cuda::KernelTable& kernels,
    ThreadTeam& team, std::unique_ptr<cuda::DenseLibrary> dense = nullptr);
// On a context that its maker goes on using, beside the backend.
std::unique_ptr<Backend> CreateCudaBackend(std::unique_ptr<CudaContext> context, ThreadTeam& team,
                                           std::unique_ptr<cuda::DenseLibrary> dense = nullptr);

}  // namespace quantloom
