// Times of products on a device, beside those of a sweep that reads the same bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/device_matrices.h"
#include "bench/device_timing.h"
#include "engine/cuda/cuda_context.h"
#include "kernels/cuda/dense_library.h"

namespace quantloom {

// Reading memory of each of these sizes.
absl::StatusOr<std::vector<DeviceTiming>> MeasureSweeps(CudaContext& context,
                                                        const std::vector<uint64_t>& bytes,
                                                        const MeasureOptions& options);

// A product for each of `tokens`. RESOURCE_EXHAUSTED where the device lacks the memory.
absl::StatusOr<std::vector<DeviceTiming>> MeasureProducts(
    CudaContext& context, const RandomMatrices& matrices, const DeviceForm& form, uint32_t rows,
    uint32_t cols, const std::vector<uint32_t>& tokens, const MeasureOptions& options);

// The same with fp16 matrices by a library: name "cublas".
absl::StatusOr<std::vector<DeviceTiming>> MeasureLibraryProducts(
    CudaContext& context, const RandomMatrices& matrices, cuda::DenseLibrary& library,
    uint32_t rows, uint32_t cols, const std::vector<uint32_t>& tokens,
    const MeasureOptions& options);

}  // namespace quantloom
