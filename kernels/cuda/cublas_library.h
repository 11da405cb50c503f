// cuBLAS as a DenseLibrary.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/dense_library.h"

namespace quantloom::cuda {

// For the device of that index. FAILED_PRECONDITION where the loader finds no cuBLAS (libcublas.so
// of CUDA 13 or 12) or it cannot be set up; RESOURCE_EXHAUSTED where its workspace has no room.
absl::StatusOr<std::unique_ptr<DenseLibrary>> OpenCublas(int device);

}  // namespace quantloom::cuda
