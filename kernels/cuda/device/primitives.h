// CUDA as the kernels see it, and the few instructions that it has no function for. The same
// sources compile for the host against an emulation of the execution model, which defines
// QUANTLOOM_CUDA_EMULATION as the header to take instead (tests/cuda/emulation).
#pragma once

#ifdef QUANTLOOM_CUDA_EMULATION
#include QUANTLOOM_CUDA_EMULATION
#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// The block's dynamic shared memory, aligned to 16 bytes.
__device__ __forceinline__ void* DynamicShared() {
  extern __shared__ uint4 memory[];
  return memory;
}

// Loads what is read once: cached in L2 alone. T of 4, 8 or 16 bytes, naturally aligned.
__device__ __forceinline__ uint32_t LoadOnce(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(value) : "l"(address));
  return value;
}
__device__ __forceinline__ uint2 LoadOnce(const uint2* address) {
  uint2 value;
  asm volatile("ld.global.nc.L1::no_allocate.v2.b32 {%0, %1}, [%2];"
               : "=r"(value.x), "=r"(value.y)
               : "l"(address));
  return value;
}
__device__ __forceinline__ uint4 LoadOnce(const uint4* address) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
}

// cp.async: 16 bytes, aligned to 16, from global to shared memory, past the first-level cache. They
// are there after the group that the thread committed them to has been waited for.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until all but the last kGroupsLeft groups have arrived.
template <int kGroupsLeft>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

// d += a b for int8 fragments of a 16 x 32 and a 32 x 8 matrix (PTX ISA, mma.m16n8k32): of lane
// 4 g + t, a has rows g, g + 8, g, g + 8 and columns 4 t .. 4 t + 3, of the upper 16 in its last
// two registers; b the same columns as rows, and column g; d rows g, g, g + 8, g + 8 and columns
// 2 t, 2 t + 1. All lanes of the warp take part.
__device__ __forceinline__ void MultiplyInt8(int (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same with unsigned bytes in a.
__device__ __forceinline__ void MultiplyUnsigned8(int (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += a b for fp16 fragments of a 16 x 16 and a 16 x 8 matrix (mma.m16n8k16): as above, with two
// columns in a register where int8 has four. Sums are the tensor core's: fp32, in an order of its
// own.
__device__ __forceinline__ void MultiplyHalf(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two fp16 additions, each rounded to nearest even.
__device__ __forceinline__ uint32_t AddHalves(uint32_t x, uint32_t y) {
  uint32_t sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(x), "r"(y));
  return sum;
}

// Launches a kernel on a stream. Null, or what is wrong.
template <typename... Parameters, typename... Arguments>
const char* LaunchKernel(dim3 grid, dim3 block, size_t shared_bytes, Stream stream,
                         void (*kernel)(Parameters...), Arguments... arguments) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quantloom::cuda

#endif
