#include "engine/cuda/cuda_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace quantloom {

absl::StatusOr<const cuda::DeviceLibrary*> LoadCudaLibrary(const std::string& library) {
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("CUDA is not available: ", dlerror()));
  }
  // A function's address comes as an object's (POSIX, dlsym).
  const auto entry =
      reinterpret_cast<cuda::DeviceLibraryEntry>(dlsym(handle, cuda::kDeviceLibraryEntry));
  const absl::Status other_build = absl::FailedPreconditionError(
      absl::StrCat("CUDA is not available: ", library, " is not of this build"));
  if (entry == nullptr) return other_build;
  const cuda::DeviceLibrary* const found = entry();
  if (found->layout != cuda::kDeviceLibraryLayout ||
      absl::string_view(found->version) != QUANTLOOM_VERSION) {
    return other_build;
  }
  return found;
}

}  // namespace quantloom
