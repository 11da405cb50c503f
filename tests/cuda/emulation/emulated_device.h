// A CUDA device for the engine, emulated.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/cuda/cuda_backend.h"
#include "engine/device.h"
#include "tests/cuda/emulation/emulated_dense_library.h"
#include "tests/cuda/emulation/emulated_runtime.h"

namespace quantloom::cuda_emulation {

class EmulatedDevice final : public Device {
 public:
  explicit EmulatedDevice(uint64_t memory_bytes = uint64_t{1} << 30,
                          CudaPrefill prefill = CudaPrefill::kFused)
      : memory_bytes_(memory_bytes), prefill_(prefill) {}

  std::string name() const override { return "cuda:0"; }
  std::string description() const override { return "emulation"; }
  uint64_t memory_bytes() const override { return memory_bytes_; }
  absl::StatusOr<uint64_t> free_memory_bytes() const override {
    if (fail_after_ == 0) return absl::InternalError("an illegal memory access (injected)");
    return memory_bytes_ - *used_;
  }
  absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(ThreadTeam& team) const override {
    auto runtime = std::make_unique<EmulatedRuntime>(memory_bytes_, used_);
    runtime->FailAfter(fail_after_);
    runtime_ = runtime.get();
    if (prefill_ == CudaPrefill::kFused) {
      return CreateCudaBackend(std::move(runtime), cuda::Kernels(), team);
    }
    auto dense = std::make_unique<EmulatedDenseLibrary>();
    dense_ = dense.get();
    return CreateCudaBackend(std::move(runtime), cuda::Kernels(), team, std::move(dense));
  }

  // Lets another process take memory.
  void TakeMemory(uint64_t bytes) { *used_ += bytes; }
  // What backends made from now on let succeed (EmulatedRuntime::FailAfter).
  void FailAfter(uint64_t calls) { fail_after_ = calls; }
  // Of the backend made last, while it lives.
  EmulatedRuntime& runtime() const { return *runtime_; }
  // Null with CudaPrefill::kFused.
  const EmulatedDenseLibrary* dense() const { return dense_; }

 private:
  uint64_t memory_bytes_;
  std::shared_ptr<std::atomic<uint64_t>> used_ = std::make_shared<std::atomic<uint64_t>>(0);
  uint64_t fail_after_ = UINT64_MAX;
  CudaPrefill prefill_;
  mutable EmulatedRuntime* runtime_ = nullptr;
  mutable EmulatedDenseLibrary* dense_ = nullptr;
};

}  // namespace quantloom::cuda_emulation
