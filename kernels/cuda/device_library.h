// What the shared library for CUDA has to offer.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/dense_library.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/kernel_table.h"

namespace quantloom::cuda {

// C++ objects cross the library's border, so both sides must be of one build. `layout` and
// `version` come first, and are looked at before anything else.
struct DeviceLibrary {
  uint64_t layout;
  const char* version;  // the project's
  absl::StatusOr<std::unique_ptr<DeviceRuntime>> (*open_device)(int index);
  const KernelTable* kernels;
  // cuBLAS (cublas_library.h).
  absl::StatusOr<std::unique_ptr<DenseLibrary>> (*open_dense_library)(int index);
};

// Differs between builds whose structures do.
inline constexpr uint64_t kDeviceLibraryLayout =
    ((sizeof(DeviceLibrary) * 1021 + sizeof(KernelTable)) * 1021 + sizeof(MatrixView)) * 1021 +
    sizeof(HadamardView) + sizeof(AttentionArguments) + sizeof(DeviceProperties) +
    sizeof(TrellisEncoding) + sizeof(HessianUpdate) + sizeof(RowChain) + sizeof(OutputParts);

// The library's only symbol.
inline constexpr char kDeviceLibraryEntry[] = "quantloom_cuda_library";
using DeviceLibraryEntry = const DeviceLibrary* (*)();

}  // namespace quantloom::cuda
