#include "kernels/cuda/device_runtime.h"

#include "absl/strings/str_cat.h"

namespace quantloom::cuda {

absl::Status RequireCapability(int index, const DeviceProperties& properties, int least) {
  if (properties.compute_major * 10 + properties.compute_minor >= least) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("CUDA device ", index, " (", properties.name, ") has compute capability ",
                   properties.compute_major, ".", properties.compute_minor,
                   "; this build has kernels for ", least / 10, ".", least % 10, " and up"));
}

}  // namespace quantloom::cuda
