#include "tests/cuda/emulation/emulated_runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

// CUDA's opaque types, for the emulation.
struct CUevent_st {
  CUstream_st* stream = nullptr;  // the one whose work it waits for
  uint64_t pending = 0;           // records that have not run: the last counts
  std::chrono::steady_clock::time_point happened;
};
struct CUgraphExec_st {
  std::vector<quantloom::cuda_emulation::Work> work;
};

namespace quantloom::cuda_emulation {
namespace {
constexpr uint8_t kGarbage = 0xA5;
constexpr std::align_val_t kAlignment{256};  // what CUDA aligns allocations to
}  // namespace

EmulatedRuntime::EmulatedRuntime(uint64_t total_bytes, uint64_t shared_bytes)
    : properties_{.name = "emulation",
                  .compute_major = 9,
                  .compute_minor = 0,
                  .total_bytes = total_bytes,
                  .shared_bytes = shared_bytes} {}

EmulatedRuntime::EmulatedRuntime(uint64_t total_bytes, std::shared_ptr<std::atomic<uint64_t>> used)
    : EmulatedRuntime(total_bytes) {
  used_bytes_ = std::move(used);
}

EmulatedRuntime::~EmulatedRuntime() {
  if (device_memory_.empty() && pinned_memory_.empty() && live_objects_ + open_ranges_ == 0) return;
  std::fprintf(stderr,
               "the emulated device's memory or objects were not all freed, or ranges ended\n");
  std::abort();
}

absl::Status EmulatedRuntime::Call() {
  ++counts_.calls;
  if (!sticky_.ok()) return sticky_;
  if (calls_left_ == 0) {
    sticky_ = absl::InternalError("an illegal memory access was encountered (injected)");
  } else {
    --calls_left_;
  }
  return sticky_;
}

// --- Memory

void* EmulatedRuntime::Take(size_t bytes, Memory& memory) {
  void* const taken = ::operator new(bytes, kAlignment);
  std::memset(taken, kGarbage, bytes);
  memory[taken] = bytes;
  return taken;
}

absl::Status EmulatedRuntime::CheckInside(const void* at, size_t bytes, const Memory& memory) {
  auto found = memory.upper_bound(const_cast<void*>(at));
  if (found != memory.begin()) {
    --found;
    const auto begin = reinterpret_cast<uintptr_t>(found->first);
    const auto first = reinterpret_cast<uintptr_t>(at);
    if (first + bytes <= begin + found->second) return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(bytes, " bytes are not within an allocation"));
}

absl::StatusOr<uint64_t> EmulatedRuntime::FreeBytes() {
  QL_RETURN_IF_ERROR(Call());
  return properties_.total_bytes - *used_bytes_;
}

absl::StatusOr<void*> EmulatedRuntime::Allocate(size_t bytes) {
  QL_RETURN_IF_ERROR(Call());
  ++counts_.allocations;
  if (bytes > properties_.total_bytes - *used_bytes_) {
    return absl::ResourceExhaustedError("out of memory");
  }
  *used_bytes_ += bytes;
  return Take(bytes, device_memory_);
}

void EmulatedRuntime::Free(void* memory) {
  if (memory == nullptr) return;
  Settle();
  const auto found = device_memory_.find(memory);
  *used_bytes_ -= found->second;
  device_memory_.erase(found);
  ::operator delete(memory, kAlignment);
}

absl::StatusOr<void*> EmulatedRuntime::AllocatePinned(size_t bytes) {
  QL_RETURN_IF_ERROR(Call());
  ++counts_.allocations;
  return Take(bytes, pinned_memory_);
}

void EmulatedRuntime::FreePinned(void* memory) {
  if (memory == nullptr) return;
  Settle();
  pinned_memory_.erase(memory);
  ::operator delete(memory, kAlignment);
}

// --- Streams

absl::StatusOr<cuda::Stream> EmulatedRuntime::CreateStream() {
  QL_RETURN_IF_ERROR(Call());
  ++live_objects_;
  return *streams_.insert(new CUstream_st(*this)).first;
}

void EmulatedRuntime::Destroy(cuda::Stream stream) {
  if (stream == nullptr) return;
  Settle();
  --live_objects_;
  streams_.erase(stream);
  delete stream;
}

absl::Status EmulatedRuntime::CopyToDevice(void* to, const void* from, size_t bytes,
                                           cuda::Stream stream) {
  QL_RETURN_IF_ERROR(CheckInside(to, bytes, device_memory_));
  if (CheckInside(from, bytes, pinned_memory_).ok()) {
    return stream->Submit([=] {
      std::memcpy(to, from, bytes);
      return absl::OkStatus();
    });
  }
  const auto* const first = static_cast<const uint8_t*>(from);
  return stream->Submit([to, bytes, copy = std::vector<uint8_t>(first, first + bytes)] {
    std::memcpy(to, copy.data(), bytes);
    return absl::OkStatus();
  });
}

absl::Status EmulatedRuntime::CopyToHost(void* to, const void* from, size_t bytes,
                                         cuda::Stream stream) {
  QL_RETURN_IF_ERROR(CheckInside(from, bytes, device_memory_));
  return stream->Submit([=] {
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  });
}

absl::Status EmulatedRuntime::CopyOnDevice(void* to, const void* from, size_t bytes,
                                           cuda::Stream stream) {
  QL_RETURN_IF_ERROR(CheckInside(to, bytes, device_memory_));
  QL_RETURN_IF_ERROR(CheckInside(from, bytes, device_memory_));
  return stream->Submit([=] {
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  });
}

void EmulatedRuntime::Settle() {
  for (const cuda::Stream stream : streams_) static_cast<void>(RunWaiting(stream, nullptr));
}

absl::Status EmulatedRuntime::RunWaiting(cuda::Stream stream, cuda::Event until) {
  while (!stream->waiting.empty() && (until == nullptr || until->pending > 0)) {
    // After an error nothing runs.
    if (!sticky_.ok()) {
      stream->waiting.clear();
      break;
    }
    const Work work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    if (absl::Status status = work(); !status.ok() && sticky_.ok()) sticky_ = std::move(status);
  }
  return sticky_;
}

absl::Status EmulatedRuntime::Synchronize(cuda::Stream stream) {
  QL_RETURN_IF_ERROR(Call());
  ++counts_.synchronizations;
  if (stream->capturing) return absl::InternalError("the stream is capturing");
  return RunWaiting(stream, nullptr);
}

// --- Events

absl::StatusOr<cuda::Event> EmulatedRuntime::CreateEvent() {
  QL_RETURN_IF_ERROR(Call());
  ++live_objects_;
  return new CUevent_st();
}

void EmulatedRuntime::Destroy(cuda::Event event) {
  if (event == nullptr) return;
  Settle();
  --live_objects_;
  delete event;
}

absl::Status EmulatedRuntime::Record(cuda::Event event, cuda::Stream stream) {
  event->stream = stream;
  ++event->pending;
  return stream->Submit([event] {
    --event->pending;
    event->happened = std::chrono::steady_clock::now();
    return absl::OkStatus();
  });
}

absl::Status EmulatedRuntime::Wait(cuda::Event event) {
  QL_RETURN_IF_ERROR(Call());
  if (event->pending == 0) return absl::OkStatus();
  ++counts_.synchronizations;
  return RunWaiting(event->stream, event);
}

absl::StatusOr<double> EmulatedRuntime::Milliseconds(cuda::Event from, cuda::Event to) {
  QL_RETURN_IF_ERROR(Call());
  if (from->pending > 0 || to->pending > 0) {
    return absl::InternalError("an event has not happened");
  }
  return std::chrono::duration<double, std::milli>(to->happened - from->happened).count();
}

void EmulatedRuntime::BeginRange(const char*) { ++open_ranges_; }

void EmulatedRuntime::EndRange() {
  if (open_ranges_ == 0) std::abort();
  --open_ranges_;
}

// --- Graphs

absl::Status EmulatedRuntime::BeginCapture(cuda::Stream stream) {
  QL_RETURN_IF_ERROR(Call());
  stream->capturing = true;
  stream->captured.clear();
  return absl::OkStatus();
}

absl::StatusOr<cuda::Graph> EmulatedRuntime::EndCapture(cuda::Stream stream) {
  stream->capturing = false;
  QL_RETURN_IF_ERROR(Call());
  if (*used_bytes_ >= properties_.total_bytes) {
    stream->captured.clear();
    return absl::ResourceExhaustedError("out of memory for the graph");
  }
  ++live_objects_;
  return new CUgraphExec_st{std::move(stream->captured)};
}

absl::Status EmulatedRuntime::Launch(cuda::Graph graph, cuda::Stream stream) {
  ++counts_.graph_launches;
  return stream->Submit([graph] {
    for (const Work& work : graph->work) QL_RETURN_IF_ERROR(work());
    return absl::OkStatus();
  });
}

void EmulatedRuntime::Destroy(cuda::Graph graph) {
  if (graph == nullptr) return;
  Settle();
  --live_objects_;
  delete graph;
}

}  // namespace quantloom::cuda_emulation
