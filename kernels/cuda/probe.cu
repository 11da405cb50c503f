#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/probe.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kThreads = 256;
// Loads that a thread has in flight: 64 bytes for each of up to 2048 threads of an SM are more than
// bandwidth times latency asks for.
constexpr uint32_t kLoads = 4;

__global__ void __launch_bounds__(kThreads) Nothing() {}

__global__ void __launch_bounds__(kThreads)
    Sweep(const uint4* memory, size_t vectors, uint32_t key, uint32_t* found) {
  const size_t first = static_cast<size_t>(blockIdx.x) * kThreads * kLoads + threadIdx.x;
  uint32_t mine = 0;
#pragma unroll
  for (uint32_t i = 0; i < kLoads; ++i) {
    const size_t at = first + static_cast<size_t>(i) * kThreads;
    if (at >= vectors) continue;
    const uint4 value = LoadOnce(memory + at);
    mine ^= value.x ^ value.y ^ value.z ^ value.w;
  }
  if (mine == key) *found = 1;
}

// As many as keep a device busy; each takes words in turn.
constexpr uint64_t kRepeatBlocks = 4096;

__global__ void __launch_bounds__(kThreads)
    Repeat(const uint32_t* pattern, uint32_t period, uint32_t step, uint32_t mask, uint32_t* words,
           uint64_t count) {
  const uint64_t all_threads = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += all_threads) {
    words[i] = (pattern[i % period] + static_cast<uint32_t>(i / period) * step) & mask;
  }
}

}  // namespace

const char* LaunchNothing(Stream stream) { return LaunchKernel(dim3(1), 32, 0, stream, Nothing); }

const char* ReadSweep(const void* memory, size_t bytes, uint32_t key, uint32_t* found,
                      Stream stream) {
  const size_t vectors = bytes / sizeof(uint4);
  if (vectors == 0) return nullptr;
  const size_t blocks = (vectors + kThreads * kLoads - 1) / (kThreads * kLoads);
  return LaunchKernel(dim3(static_cast<uint32_t>(blocks)), kThreads, 0, stream, Sweep,
                      static_cast<const uint4*>(memory), vectors, key, found);
}

const char* RepeatPattern(const uint32_t* pattern, uint32_t period, uint32_t step, uint32_t mask,
                          uint32_t* words, uint64_t count, Stream stream) {
  if (count == 0) return nullptr;
  const uint64_t blocks = (count + kThreads - 1) / kThreads;
  return LaunchKernel(dim3(static_cast<uint32_t>(blocks < kRepeatBlocks ? blocks : kRepeatBlocks)),
                      kThreads, 0, stream, Repeat, pattern, period, step, mask, words, count);
}

}  // namespace quantloom::cuda
