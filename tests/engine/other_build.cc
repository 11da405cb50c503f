// A shared library as another build would make it, for the test of LoadCudaLibrary.
#include "kernels/cuda/device_library.h"

extern "C" __attribute__((visibility("default"))) const quantloom::cuda::DeviceLibrary*
quantloom_cuda_library() {
  static const quantloom::cuda::DeviceLibrary kLibrary = {
      .layout = quantloom::cuda::kDeviceLibraryLayout,
      .version = "another",
      .open_device = nullptr,
      .kernels = nullptr,
      .open_dense_library = nullptr};
  return &kLibrary;
}
