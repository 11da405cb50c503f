#include "engine/device.h"

#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"
#include "engine/cpu_backend.h"
#include "engine/cuda/cuda_backend.h"
#include "engine/cuda/cuda_library.h"
#include "kernels/cpu/linear.h"

namespace quantloom {
namespace {

class Cpu final : public Device {
 public:
  explicit Cpu(std::optional<cpu::ActivationForm> activations) : activations_(activations) {}

  std::string name() const override { return "cpu"; }
  std::string description() const override { return cpu::ActiveTarget(); }
  uint64_t memory_bytes() const override { return 0; }
  absl::StatusOr<uint64_t> free_memory_bytes() const override { return 0; }
  absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(ThreadTeam& team) const override {
    return CreateCpuBackend(team, activations_);
  }

 private:
  std::optional<cpu::ActivationForm> activations_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, CudaPrefill prefill, const cuda::DeviceLibrary& library,
             std::unique_ptr<cuda::DeviceRuntime> runtime)
      : index_(index), prefill_(prefill), library_(library), runtime_(std::move(runtime)) {}

  std::string name() const override { return absl::StrCat("cuda:", index_); }
  std::string description() const override { return runtime_->properties().name; }
  uint64_t memory_bytes() const override { return runtime_->properties().total_bytes; }
  absl::StatusOr<uint64_t> free_memory_bytes() const override { return runtime_->FreeBytes(); }
  absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(ThreadTeam& team) const override {
    QL_ASSIGN_OR_RETURN(auto runtime, library_.open_device(index_));
    std::unique_ptr<cuda::DenseLibrary> dense;
    if (prefill_ == CudaPrefill::kCublas) {
      QL_ASSIGN_OR_RETURN(dense, library_.open_dense_library(index_));
    }
    return CreateCudaBackend(std::move(runtime), *library_.kernels, team, std::move(dense));
  }

 private:
  int index_;
  CudaPrefill prefill_;
  const cuda::DeviceLibrary& library_;
  std::unique_ptr<cuda::DeviceRuntime> runtime_;
};

// N of "cuda:N", 0 of "cuda"; null for other text.
std::optional<int> CudaIndex(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, "cuda")) return std::nullopt;
  if (text.empty()) return 0;
  int index = 0;
  // SimpleAtoi takes signs and spaces, too.
  if (!absl::ConsumePrefix(&text, ":") || text.empty() ||
      !absl::ascii_isdigit(static_cast<unsigned char>(text[0])) ||
      !absl::SimpleAtoi(text, &index)) {
    return std::nullopt;
  }
  return index;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenCpu(std::optional<cpu::ActivationForm> activations) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  return std::make_unique<Cpu>(activations);
}

absl::StatusOr<std::unique_ptr<Device>> OpenCuda(int index, CudaPrefill prefill) {
  QL_ASSIGN_OR_RETURN(const cuda::DeviceLibrary* const library, LoadCudaLibrary());
  QL_ASSIGN_OR_RETURN(auto runtime, library->open_device(index));
  // Models open it for themselves; this is to fail before one is loaded.
  if (prefill == CudaPrefill::kCublas) {
    QL_RETURN_IF_ERROR(library->open_dense_library(index).status());
  }
  return std::make_unique<CudaDevice>(index, prefill, *library, std::move(runtime));
}

bool NamesDevice(absl::string_view text) {
  return text == "auto" || text == "cpu" || CudaIndex(text).has_value();
}

absl::StatusOr<DeviceChoice> ChooseDevice(absl::string_view text, CudaPrefill prefill) {
  if (!NamesDevice(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("device '", text, "': must be auto, cpu, cuda or cuda:N"));
  }
  DeviceChoice choice;
  if (const std::optional<int> index = CudaIndex(text)) {
    QL_ASSIGN_OR_RETURN(choice.device, OpenCuda(*index, prefill));
    return choice;
  }
  if (text == "auto") {
    const absl::StatusOr<std::unique_ptr<Device>> cuda = OpenCuda(0);
    if (cuda.ok()) {
      QL_ASSIGN_OR_RETURN(choice.device, OpenCuda(0, prefill));
      return choice;
    }
    choice.fallback = cuda.status();
  }
  QL_ASSIGN_OR_RETURN(choice.device, OpenCpu());
  return choice;
}

}  // namespace quantloom
