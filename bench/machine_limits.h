// What this machine does at best, measured in the process that measures the kernels, with the same
// threads: what their speeds are shares of.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/parallel.h"

namespace quantloom {

// Bytes beyond the caches: eight times the last-level cache, at least 256 MiB and at most 1 GiB.
size_t BytesBeyondCaches();

// Bytes per second of the fastest of several sweeps that do nothing but read a buffer beyond the
// caches, its parts side by side on the team's threads, in huge pages where the system has them.
double MeasureReadBandwidth(ThreadTeam& team);

// Multiply-adds of int8 per second of the whole team, in registers, with the widest instructions
// that the active SIMD target (kernels/cpu/linear.h) has: vpdpbusd, or vpmaddubsw with vpmaddwd and
// an addition; elsewhere what the compiler makes of a loop.
double MeasureInt8Peak(ThreadTeam& team);

}  // namespace quantloom
