// DeviceRuntime over the emulation: device memory is the host's, and faults can be injected.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>

#include "absl/status/status.h"
#include "kernels/cuda/device_runtime.h"
#include "tests/cuda/emulation/stream.h"

namespace quantloom::cuda_emulation {

// Like CUDA's, but streams hold their work back, and it is for one thread at a time. Memory is
// filled with garbage; a graph can be made while some is left. Copies and clears must lie within
// one allocation; everything must be freed before the runtime is.
class EmulatedRuntime final : public cuda::DeviceRuntime, public DeviceHealth {
 public:
  explicit EmulatedRuntime(uint64_t total_bytes = uint64_t{1} << 30,
                           uint64_t shared_bytes = uint64_t{227} << 10);
  // One of several of a device, which share its memory: `used` counts what they have taken.
  EmulatedRuntime(uint64_t total_bytes, std::shared_ptr<std::atomic<uint64_t>> used);
  ~EmulatedRuntime() override;

  // Lets `calls` further calls succeed (work for streams counts, what frees does not); then they
  // all fail, as after an error that CUDA calls sticky.
  void FailAfter(uint64_t calls) { calls_left_ = calls; }
  // Calls since the runtime was made, and of those the allocations, synchronizations (waits for
  // events that had happened are none) and graphs launched.
  struct Counts {
    uint64_t calls = 0;
    uint64_t allocations = 0;
    uint64_t synchronizations = 0;
    uint64_t graph_launches = 0;
  };
  const Counts& counts() const { return counts_; }

  absl::Status Call() override;

  const cuda::DeviceProperties& properties() const override { return properties_; }
  absl::StatusOr<uint64_t> FreeBytes() override;
  absl::StatusOr<void*> Allocate(size_t bytes) override;
  void Free(void* memory) override;
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override;
  void FreePinned(void* memory) override;
  absl::StatusOr<cuda::Stream> CreateStream() override;
  void Destroy(cuda::Stream stream) override;
  absl::Status CopyToDevice(void* to, const void* from, size_t bytes, cuda::Stream stream) override;
  absl::Status CopyToHost(void* to, const void* from, size_t bytes, cuda::Stream stream) override;
  absl::Status CopyOnDevice(void* to, const void* from, size_t bytes, cuda::Stream stream) override;
  absl::Status Synchronize(cuda::Stream stream) override;
  absl::StatusOr<cuda::Event> CreateEvent() override;
  void Destroy(cuda::Event event) override;
  absl::Status Record(cuda::Event event, cuda::Stream stream) override;
  absl::Status Wait(cuda::Event event) override;
  absl::StatusOr<double> Milliseconds(cuda::Event from, cuda::Event to) override;
  void BeginRange(const char* name) override;
  void EndRange() override;
  absl::Status BeginCapture(cuda::Stream stream) override;
  absl::StatusOr<cuda::Graph> EndCapture(cuda::Stream stream) override;
  absl::Status Launch(cuda::Graph graph, cuda::Stream stream) override;
  void Destroy(cuda::Graph graph) override;

 private:
  using Memory = std::map<void*, size_t>;  // address, bytes

  static void* Take(size_t bytes, Memory& memory);
  // INTERNAL unless [at, at + bytes) lies in one of the allocations.
  static absl::Status CheckInside(const void* at, size_t bytes, const Memory& memory);
  // Runs what streams have, before something is freed that it may need.
  void Settle();
  // Runs what a stream has, up to its event where there is one.
  absl::Status RunWaiting(cuda::Stream stream, cuda::Event until);

  cuda::DeviceProperties properties_;
  std::shared_ptr<std::atomic<uint64_t>> used_bytes_ = std::make_shared<std::atomic<uint64_t>>(0);
  Memory device_memory_;
  Memory pinned_memory_;
  std::set<cuda::Stream> streams_;
  uint64_t live_objects_ = 0;  // streams, events, graphs
  uint64_t open_ranges_ = 0;
  uint64_t calls_left_ = UINT64_MAX;
  absl::Status sticky_;
  Counts counts_;
};

}  // namespace quantloom::cuda_emulation
