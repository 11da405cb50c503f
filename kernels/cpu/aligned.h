// Arrays that start on a cache line, so that a full vector never straddles two of them. Large ones
// lie in huge pages where the system gives them on request.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <vector>

namespace quantloom::cpu {

template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64}, kHugePage{size_t{2} << 20};
  // From here on the part of a huge page that is wasted at the end does not matter.
  static constexpr size_t kHugeBytes = size_t{8} << 20;

  CacheLineAllocator() = default;
  template <typename U>
  // NOLINTNEXTLINE(google-explicit-constructor): allocators convert by definition.
  CacheLineAllocator(const CacheLineAllocator<U>&) {}

  T* allocate(size_t n) {
    const size_t bytes = n * sizeof(T);
    void* p = ::operator new(bytes, Alignment(bytes));
    if (bytes >= kHugeBytes) madvise(p, bytes, MADV_HUGEPAGE);  // advice: failing is harmless
    return static_cast<T*>(p);
  }
  void deallocate(T* p, size_t n) { ::operator delete(p, Alignment(n * sizeof(T))); }
  static constexpr std::align_val_t Alignment(size_t bytes) {
    return bytes < kHugeBytes ? kAlignment : kHugePage;
  }
  bool operator==(const CacheLineAllocator&) const { return true; }
};

template <typename T>
using AlignedVector = std::vector<T, CacheLineAllocator<T>>;

// How many elements apart rows of `elements` lie so that a column of many rows spreads over all
// sets of a cache: an odd number of cache lines. Rows a power of two apart would share a few sets,
// and eight of 8,192 bytes drive each other out of a first-level cache.
template <typename T>
constexpr size_t SpreadStride(size_t elements) {
  constexpr size_t kLine = 64 / sizeof(T);
  return ((elements + kLine - 1) / kLine | 1) * kLine;
}

}  // namespace quantloom::cpu
