// The shared library with everything that needs the CUDA toolkit, opened at run time: so one build
// serves nodes with and without a GPU.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_library.h"

namespace quantloom {

inline constexpr char kCudaLibrary[] = "libquantloom_cuda.so";

// Opens the library by name (where the loader looks, the program's own directory and ../lib
// included) or path; it stays open. FAILED_PRECONDITION when it cannot be opened, or is of another
// build.
absl::StatusOr<const cuda::DeviceLibrary*> LoadCudaLibrary(
    const std::string& library = kCudaLibrary);

}  // namespace quantloom
