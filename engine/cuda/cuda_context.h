// What the objects of one CUDA backend share: device, kernels, stream, the first error; and memory
// that is freed with its owner.
//
// Thread-safety: one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/kernel_table.h"

namespace quantloom {

// Steps that the host may have started and not finished (Backend::runs_ahead).
constexpr size_t kUnfinishedSteps = 2;

// Memory of a device, or host memory that its copies read and write directly (pinned).
class CudaMemory {
 public:
  CudaMemory() = default;
  // `held` counts the bytes of device memory while this object lives.
  CudaMemory(cuda::DeviceRuntime& runtime, void* memory, uint64_t bytes,
             std::atomic<uint64_t>& held)
      : runtime_(&runtime), memory_(memory), bytes_(bytes), held_(&held) {
    *held_ += bytes_;
  }
  CudaMemory(cuda::DeviceRuntime& runtime, void* pinned)
      : runtime_(&runtime), memory_(pinned), kind_(Kind::kPinned) {}
  CudaMemory(CudaMemory&& other) noexcept { Swap(other); }
  CudaMemory& operator=(CudaMemory&& other) noexcept {
    CudaMemory(std::move(other)).Swap(*this);
    return *this;
  }
  ~CudaMemory() {
    if (memory_ == nullptr) return;
    if (kind_ == Kind::kPinned) {
      runtime_->FreePinned(memory_);
    } else {
      runtime_->Free(memory_);
      *held_ -= bytes_;
    }
  }

  bool empty() const { return memory_ == nullptr; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  enum class Kind : uint8_t { kDevice, kPinned };

  void Swap(CudaMemory& other) {
    std::swap(runtime_, other.runtime_);
    std::swap(memory_, other.memory_);
    std::swap(kind_, other.kind_);
    std::swap(bytes_, other.bytes_);
    std::swap(held_, other.held_);
  }

  cuda::DeviceRuntime* runtime_ = nullptr;
  void* memory_ = nullptr;
  Kind kind_ = Kind::kDevice;
  uint64_t bytes_ = 0;  // of device memory
  std::atomic<uint64_t>* held_ = nullptr;
};

class CudaEvent {
 public:
  CudaEvent() = default;
  CudaEvent(cuda::DeviceRuntime& runtime, cuda::Event event) : runtime_(&runtime), event_(event) {}
  CudaEvent(CudaEvent&& other) noexcept { Swap(other); }
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    CudaEvent(std::move(other)).Swap(*this);
    return *this;
  }
  ~CudaEvent() {
    if (event_ != nullptr) runtime_->Destroy(event_);
  }

  cuda::Event get() const { return event_; }

 private:
  void Swap(CudaEvent& other) {
    std::swap(runtime_, other.runtime_);
    std::swap(event_, other.event_);
  }

  cuda::DeviceRuntime* runtime_ = nullptr;
  cuda::Event event_ = nullptr;
};

// What CudaContext::Upload takes of an array.
template <typename T>
absl::Span<const uint8_t> BytesOf(absl::Span<const T> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

class CudaContext {
 public:
  static absl::StatusOr<std::unique_ptr<CudaContext>> Create(
      std::unique_ptr<cuda::DeviceRuntime> runtime, const cuda::KernelTable& kernels);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  cuda::DeviceRuntime& runtime() const { return *runtime_; }
  const cuda::KernelTable& kernels() const { return kernels_; }
  cuda::Stream stream() const { return stream_; }

  // Of device memory, held by what was allocated here. From any thread.
  uint64_t memory_bytes() const { return memory_bytes_; }

  // The first error; while there is none, ok().
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  // Keeps an error if it is the first.
  void Note(const absl::Status& status);
  // Of a kernel's launch: null, or what is wrong.
  void Note(const char* launch_error);

  // RESOURCE_EXHAUSTED names what was asked for and what is available, and leaves the device good;
  // other errors are kept.
  absl::StatusOr<CudaMemory> Allocate(uint64_t bytes);
  absl::StatusOr<CudaMemory> AllocatePinned(uint64_t bytes) const;
  absl::StatusOr<CudaEvent> CreateEvent() const;
  // What such a call has, or nothing, and its error kept.
  template <typename T>
  T OrNote(absl::StatusOr<T> result) {
    if (result.ok()) return *std::move(result);
    Note(result.status());
    return T();
  }

  // Device memory with these bytes. They go through two pinned buffers: while one is copied, the
  // other is filled. Errors are Allocate's.
  absl::StatusOr<CudaMemory> Upload(absl::Span<const uint8_t> bytes);

 private:
  absl::Status CopyThroughStaging(absl::Span<const uint8_t> bytes, uint8_t* to);

  struct Staging {
    CudaMemory memory;
    CudaEvent copied;
  };

  CudaContext(std::unique_ptr<cuda::DeviceRuntime> runtime, const cuda::KernelTable& kernels)
      : runtime_(std::move(runtime)), kernels_(kernels) {}

  std::unique_ptr<cuda::DeviceRuntime> runtime_;
  const cuda::KernelTable& kernels_;
  cuda::Stream stream_ = nullptr;
  std::atomic<uint64_t> memory_bytes_{0};
  std::array<Staging, 2> staging_;
  absl::Status status_;
};

}  // namespace quantloom
