// Runs kernels as the CUDA execution model says (CUDA C++ Programming Guide, sections 5 and 10), on
// the host and slowly: every thread of a block is a fiber that runs alone until it meets a barrier
// or a warp-wide operation, in an order that the seed decides. Blocks run one after another, in an
// order that the seed decides too.
//
// So what a kernel may not rely on does not hold: the order of threads between barriers and of
// blocks, the contents of shared memory at the start, the progress of asynchronous copies before
// they are waited for. Memory errors are AddressSanitizer's to find, in global memory (the test's
// heap) and in shared memory alike.
//
// Thread-safety: none; one launch at a time in a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace quantloom::cuda_emulation {

constexpr uint32_t kWarpLanes = 32;
constexpr uint32_t kMaxBlockThreads = 1024;
constexpr size_t kMaxSharedBytes = 227 << 10;  // compute capability 9.0

struct Dim3 {
  constexpr Dim3(uint32_t x_count = 1, uint32_t y_count = 1, uint32_t z_count = 1)  // NOLINT
      : x(x_count), y(y_count), z(z_count) {}
  uint32_t x;
  uint32_t y;
  uint32_t z;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

// INVALID_ARGUMENT for a shape that CUDA would not launch.
absl::Status CheckShape(Dim3 grid, Dim3 block, size_t dynamic_shared_bytes);

// Runs `thread` once for each thread of the grid. Errors: CheckShape's; ABORTED when the block
// cannot go on, or does what CUDA leaves undefined: a barrier or warp-wide operation that not all
// come to, different operations under one mask, a lane that is not in its own mask. The message
// says where (block, thread, operation). Threads that had not ended are abandoned.
absl::Status Launch(Dim3 grid, Dim3 block, size_t dynamic_shared_bytes, uint64_t seed,
                    const std::function<void()>& thread);
// Launches that have been run so far.
uint64_t Launches();

// --- Within a thread of a kernel.

struct Position {
  Dim3 grid;
  Dim3 block;
  Dim3 block_index;
  Dim3 thread_index;
};
const Position& Here();
uint32_t Lane();

// The block's dynamic shared memory, of just the size that was asked for, filled with 0xA5.
void* DynamicShared();

// Waits until all threads of the block that have not ended are here.
void BlockBarrier();

// The lanes of `mask` meet. When the last has come, `compute` runs once; it finds what each lane
// brought in arguments[lane], null outside the mask, and leaves results there.
using Compute = void (*)(uint32_t mask, void* const* arguments);
void MeetWarp(uint32_t mask, const char* operation, void* argument, Compute compute);

// Asynchronous copies of this thread: made when they are waited for, not before.
void CopyAsync(void* shared, const void* global, size_t bytes);
void CommitCopies();
void WaitForCopies(size_t groups_left);

// Ends the launch with ABORTED.
[[noreturn]] void Fail(std::string what);

}  // namespace quantloom::cuda_emulation
