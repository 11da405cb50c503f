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

}  // namespace quantloom::cuda
