#include "kernels/cuda/device_library.h"

#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/toolkit_runtime.h"

// Named by kDeviceLibraryEntry.
extern "C" __attribute__((visibility("default"))) const quantloom::cuda::DeviceLibrary*
quantloom_cuda_library() {
  static const quantloom::cuda::DeviceLibrary kLibrary = {
      .layout = quantloom::cuda::kDeviceLibraryLayout,
      .version = QUANTLOOM_VERSION,
      .open_device = quantloom::cuda::OpenDevice,
      .kernels = &quantloom::cuda::Kernels(),
      .open_dense_library = quantloom::cuda::OpenCublas};
  return &kLibrary;
}
