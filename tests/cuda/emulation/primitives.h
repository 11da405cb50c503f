// What kernels take from CUDA, as the host's compiler sees it: the language's keywords, built-in
// variables and functions under their own names (CUDA C++ Programming Guide, sections 7 and 10;
// math API), over execution.h. Semantics are those of compute capability 8.0 and up; undefined
// behaviour ends the launch.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "core/base/float16.h"
#include "kernels/cuda/stream.h"
#include "tests/cuda/emulation/execution.h"
#include "tests/cuda/emulation/stream.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after another, so a block's static shared memory may be the program's.
#define __shared__ static
#define __align__(bytes) alignas(bytes)

using dim3 = ::quantloom::cuda_emulation::Dim3;
#define threadIdx (::quantloom::cuda_emulation::Here().thread_index)
#define blockIdx (::quantloom::cuda_emulation::Here().block_index)
#define blockDim (::quantloom::cuda_emulation::Here().block)
#define gridDim (::quantloom::cuda_emulation::Here().grid)

struct __align__(8) uint2 {
  uint32_t x, y;
};
struct __align__(16) uint4 {
  uint32_t x, y, z, w;
};
struct __align__(8) float2 {
  float x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// --- Synchronization and warps.

inline void __syncthreads() { ::quantloom::cuda_emulation::BlockBarrier(); }
inline void __syncwarp(uint32_t mask = 0xFFFFFFFFu) {
  ::quantloom::cuda_emulation::MeetWarp(mask, "__syncwarp", nullptr, [](uint32_t, void* const*) {});
}

namespace quantloom::cuda_emulation {

// A shuffle's argument: the lane's value, whose value it wants, and then that.
struct Shuffled {
  uint64_t value;
  uint32_t source;
};

inline void ComputeShuffle(uint32_t mask, void* const* arguments) {
  uint64_t values[kWarpLanes] = {};
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1) != 0) values[lane] = static_cast<Shuffled*>(arguments[lane])->value;
  }
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    auto& shuffled = *static_cast<Shuffled*>(arguments[lane]);
    if ((mask >> shuffled.source & 1) == 0) Fail("a shuffle reads a lane outside its mask");
    shuffled.value = values[shuffled.source];
  }
}

template <typename T>
T Shuffle(uint32_t mask, const char* operation, T value, uint32_t source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  Shuffled shuffled{.value = 0, .source = source};
  std::memcpy(&shuffled.value, &value, sizeof(T));
  MeetWarp(mask, operation, &shuffled, ComputeShuffle);
  std::memcpy(&value, &shuffled.value, sizeof(T));
  return value;
}

// All lanes get what `combine` makes of all lanes' values.
template <typename T, typename Combine>
T ReduceWarp(uint32_t mask, const char* operation, T value, Combine) {
  static_assert(std::is_empty_v<Combine>);
  MeetWarp(mask, operation, &value, [](uint32_t lanes, void* const* arguments) {
    T result{};
    bool first = true;
    for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
      if ((lanes >> lane & 1) == 0) continue;
      const T mine = *static_cast<T*>(arguments[lane]);
      result = first ? mine : Combine()(result, mine);
      first = false;
    }
    for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
      if ((lanes >> lane & 1) != 0) *static_cast<T*>(arguments[lane]) = result;
    }
  });
  return value;
}

}  // namespace quantloom::cuda_emulation

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source) {
  return ::quantloom::cuda_emulation::Shuffle(mask, "__shfl_sync", value,
                                              static_cast<uint32_t>(source) % 32);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes) {
  using namespace ::quantloom::cuda_emulation;  // NOLINT
  return Shuffle(mask, "__shfl_xor_sync", value, Lane() ^ static_cast<uint32_t>(lanes));
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, uint32_t delta) {
  using namespace ::quantloom::cuda_emulation;  // NOLINT
  return Shuffle(mask, "__shfl_up_sync", value, Lane() < delta ? Lane() : Lane() - delta);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, uint32_t delta) {
  using namespace ::quantloom::cuda_emulation;  // NOLINT
  return Shuffle(mask, "__shfl_down_sync", value, Lane() + delta > 31 ? Lane() : Lane() + delta);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  const uint32_t mine = predicate != 0 ? uint32_t{1} << ::quantloom::cuda_emulation::Lane() : 0;
  return ::quantloom::cuda_emulation::ReduceWarp(mask, "__ballot_sync", mine,
                                                 [](uint32_t a, uint32_t b) { return a | b; });
}
inline int __any_sync(uint32_t mask, int predicate) {
  return ::quantloom::cuda_emulation::ReduceWarp(mask, "__any_sync", predicate != 0 ? 1 : 0,
                                                 [](int a, int b) { return a | b; });
}
inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t value) {
  return ::quantloom::cuda_emulation::ReduceWarp(mask, "__reduce_add_sync", value,
                                                 [](uint32_t a, uint32_t b) { return a + b; });
}

// --- Atomics: threads run one at a time.

inline uint32_t atomicAdd(uint32_t* address, uint32_t value) {
  const uint32_t old = *address;
  *address = old + value;
  return old;
}
inline uint32_t atomicOr(uint32_t* address, uint32_t value) {
  const uint32_t old = *address;
  *address = old | value;
  return old;
}
inline void __threadfence() {}

// --- Integers.

inline int min(int x, int y) { return x < y ? x : y; }
inline int max(int x, int y) { return x > y ? x : y; }
inline uint32_t min(uint32_t x, uint32_t y) { return x < y ? x : y; }
inline int __popc(uint32_t x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<uint32_t>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(x)) + 1; }
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  const uint64_t both = uint64_t{high} << 32 | low;
  return static_cast<uint32_t>(both >> (shift & 31));
}
inline uint64_t __umul64hi(uint64_t x, uint64_t y) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(Wide{x} * y >> 64);
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(bytes >> (selector >> (4 * i) & 7) * 8 & 0xFF) << (8 * i);
  }
  return result;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) {
    c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  }
  return c;
}

// --- Floating point.

inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }

struct __half {
  uint16_t bits;
};
struct __align__(4) __half2 {
  __half x, y;
};
inline float __half2float(__half x) { return ::quantloom::HalfToFloat(x.bits); }
inline __half __float2half_rn(float x) { return {::quantloom::FloatToHalf(x)}; }
inline __half __ushort_as_half(uint16_t x) { return {x}; }
inline uint16_t __half_as_ushort(__half x) { return x.bits; }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }

// --- What kernels/cuda/device/primitives.h makes of PTX instructions.

namespace quantloom::cuda {

// Whoever sets it, sees kernels in another order.
inline uint64_t launch_seed = 1;

// Without a stream the kernel runs at once.
template <typename... Parameters, typename... Arguments>
const char* LaunchKernel(cuda_emulation::Dim3 grid, cuda_emulation::Dim3 block, size_t shared_bytes,
                         Stream stream, void (*kernel)(Parameters...), Arguments... arguments) {
  static std::string error;
  absl::Status status = cuda_emulation::CheckShape(grid, block, shared_bytes);
  if (status.ok()) {
    const auto run = [=] {
      return cuda_emulation::Launch(grid, block, shared_bytes, launch_seed,
                                    [&] { kernel(arguments...); });
    };
    status = stream == nullptr ? run() : stream->Submit(run);
  }
  error = std::string(status.message());
  return status.ok() ? nullptr : error.c_str();
}

// cp.async.cg.shared.global, 16 bytes.
inline void CopyAsync16(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    cuda_emulation::Fail("cp.async of 16 bytes: not aligned to 16");
  }
  cuda_emulation::CopyAsync(shared, global, 16);
}
inline void CommitCopies() { cuda_emulation::CommitCopies(); }
template <int kGroupsLeft>
void WaitForCopies() {
  cuda_emulation::WaitForCopies(kGroupsLeft);
}

// ld.global.nc.L1::no_allocate: T of 4, 8 or 16 bytes, naturally aligned.
template <typename T>
T LoadOnce(const T* address) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    cuda_emulation::Fail("a load is not aligned to its size");
  }
  return *address;
}

inline void* DynamicShared() { return cuda_emulation::DynamicShared(); }

// add.rn.f16x2. Rounding to fp32 first does not matter: it has more than twice fp16's precision.
inline uint32_t AddHalves(uint32_t x, uint32_t y) {
  uint32_t sum = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    sum |= static_cast<uint32_t>(FloatToHalf(HalfToFloat(static_cast<uint16_t>(x >> shift)) +
                                             HalfToFloat(static_cast<uint16_t>(y >> shift))))
           << shift;
  }
  return sum;
}

// mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32: d += a b.
void MultiplyInt8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
// mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32: d += a b.
void MultiplyUnsigned8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32: d += a b.
void MultiplyHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

}  // namespace quantloom::cuda
