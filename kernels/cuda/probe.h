// For measurements: what a device does at best, kernels that others are compared with, and
// contents of memory that no host needs to make.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// A kernel that does nothing: what a launch, or a graph's node, costs. Null, or why it could not be
// launched.
const char* LaunchNothing(Stream stream);

// Reads `bytes` (a multiple of 16; memory aligned to 16) once, in loads of 16 bytes a lane, four of
// them a thread. Sets *found where the exclusive or of a thread's words is `key`: a use of what is
// loaded that hardly ever writes. Null, or why the kernel could not be launched.
const char* ReadSweep(const void* memory, size_t bytes, uint32_t key, uint32_t* found,
                      Stream stream);

// words[i] = (pattern[i % period] + i / period * step) & mask, i < count. Null, or why the kernel
// could not be launched.
const char* RepeatPattern(const uint32_t* pattern, uint32_t period, uint32_t step, uint32_t mask,
                          uint32_t* words, uint64_t count, Stream stream);

}  // namespace quantloom::cuda
