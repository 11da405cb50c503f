// Where models run.
//
//   QL_ASSIGN_OR_RETURN(const DeviceChoice choice, ChooseDevice("auto"));
//   if (!choice.fallback.ok()) ... say why the CPU was taken ...
//   QL_ASSIGN_OR_RETURN(auto backend, choice.device->CreateBackend(team));
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/parallel.h"
#include "engine/backend.h"
#include "kernels/cpu/linear.h"

namespace quantloom {

// Thread-safety: all methods may be called from any thread.
class Device {
 public:
  virtual ~Device() = default;
  // "cpu" or "cuda:N".
  virtual std::string name() const = 0;
  // The processor: the SIMD target in use, or the GPU's name.
  virtual std::string description() const = 0;
  // Of its own memory; 0: it uses the host's.
  virtual uint64_t memory_bytes() const = 0;
  // What of that nobody has taken, this process or another; 0 where it uses the host's. INTERNAL
  // when the device has failed.
  virtual absl::StatusOr<uint64_t> free_memory_bytes() const = 0;
  // A backend for one model. `team` computes, or on a GPU rearranges weights while they are loaded;
  // it must outlive the backend.
  virtual absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(ThreadTeam& team) const = 0;
};

// What multiplies a prompt's rows, many at a time, on CUDA devices.
enum class CudaPrefill : uint8_t {
  kFused,   // kernels that decode weights as they multiply: a row's result is the same in any batch
  kCublas,  // cuBLAS, with weights expanded to fp16: results depend on how many rows a step has
};

// FAILED_PRECONDITION for a CPU without the needed instructions.
absl::StatusOr<std::unique_ptr<Device>> OpenCpu(
    std::optional<cpu::ActivationForm> activations = {});
// FAILED_PRECONDITION where the shared library for CUDA, a driver, or a device that it has code for
// is missing, or with kCublas cuBLAS; INVALID_ARGUMENT for an index out of range.
absl::StatusOr<std::unique_ptr<Device>> OpenCuda(int index,
                                                 CudaPrefill prefill = CudaPrefill::kFused);

struct DeviceChoice {
  std::unique_ptr<Device> device;
  absl::Status fallback;  // why `auto` took the CPU
};

// Whether ChooseDevice understands the text.
bool NamesDevice(absl::string_view text);

// "auto": CUDA device 0 where there is one, else the CPU; "cpu"; "cuda", which is "cuda:0";
// "cuda:N". INVALID_ARGUMENT for other text. FAILED_PRECONDITION where a CUDA device is taken,
// kCublas asked for, and no cuBLAS found; the CPU does not care.
absl::StatusOr<DeviceChoice> ChooseDevice(absl::string_view text,
                                          CudaPrefill prefill = CudaPrefill::kFused);

}  // namespace quantloom
