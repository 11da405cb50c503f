// What the CUDA backend needs of CUDA's runtime: memory, copies, streams, events, graphs. The tests
// implement it over the emulation, and make it fail.
//
// Errors carry CUDA's own message. RESOURCE_EXHAUSTED for memory that cannot be had; INTERNAL for
// what else goes wrong on the device. After such an error CUDA fails every later call of the
// process, too. Work on a stream is asynchronous: its errors come from whatever call finds them.
//
// Thread-safety: all methods may be called from any thread; the device becomes the calling
// thread's, as kernels need it. One thread at a time may use a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/stream.h"

struct CUevent_st;
struct CUgraphExec_st;

namespace quantloom::cuda {

using Event = CUevent_st*;      // cudaEvent_t
using Graph = CUgraphExec_st*;  // cudaGraphExec_t

struct DeviceProperties {
  std::string name;
  int compute_major = 0;  // compute capability
  int compute_minor = 0;
  uint64_t total_bytes = 0;
  uint64_t shared_bytes = 0;  // that a block may have
};

// FAILED_PRECONDITION, naming device `index`, for a compute capability below `least`, which is
// written as 80 for 8.0.
absl::Status RequireCapability(int index, const DeviceProperties& properties, int least);

// One device.
class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  virtual const DeviceProperties& properties() const = 0;
  virtual absl::StatusOr<uint64_t> FreeBytes() = 0;

  // --- Memory; contents are unspecified. Freeing null does nothing. What is freed or destroyed
  // while work that was given to a stream needs it, is so when that is done.
  virtual absl::StatusOr<void*> Allocate(size_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // Host memory that copies read and write directly.
  virtual absl::StatusOr<void*> AllocatePinned(size_t bytes) = 0;
  virtual void FreePinned(void* memory) = 0;

  // --- Streams. Work runs in the order in which it was given to a stream. Copies of memory that is
  // not pinned may return before it has been written, not before it has been read.
  virtual absl::StatusOr<Stream> CreateStream() = 0;
  virtual void Destroy(Stream stream) = 0;
  virtual absl::Status CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) = 0;
  virtual absl::Status CopyToHost(void* to, const void* from, size_t bytes, Stream stream) = 0;
  virtual absl::Status CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) = 0;
  // Waits until the stream's work is done.
  virtual absl::Status Synchronize(Stream stream) = 0;

  // --- Events.
  virtual absl::StatusOr<Event> CreateEvent() = 0;
  virtual void Destroy(Event event) = 0;
  // The event has happened when the work that the stream has now is done.
  virtual absl::Status Record(Event event, Stream stream) = 0;
  // Waits until the event has happened; one that was never recorded has.
  virtual absl::Status Wait(Event event) = 0;
  // Between two events that have happened.
  virtual absl::StatusOr<double> Milliseconds(Event from, Event to) = 0;

  // --- A named stretch of the calling thread's time, for profilers (NVTX). Stretches nest.
  virtual void BeginRange(const char* name) = 0;
  virtual void EndRange() = 0;

  // --- Graphs. Between BeginCapture and EndCapture work for the stream is recorded, with its
  // arguments, and does not run. EndCapture must be called even when recording failed.
  virtual absl::Status BeginCapture(Stream stream) = 0;
  virtual absl::StatusOr<Graph> EndCapture(Stream stream) = 0;
  virtual absl::Status Launch(Graph graph, Stream stream) = 0;
  virtual void Destroy(Graph graph) = 0;
};

}  // namespace quantloom::cuda
