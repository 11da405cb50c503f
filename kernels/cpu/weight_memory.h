// Memory for weights that products read from end to end: arrays of any size share huge pages where
// the system gives them on request. With pages of 4 KB every one of them is a walk through two
// levels of page tables in a virtual machine, and hardware prefetching ends at each.
#pragma once

#include <cstddef>
#include <vector>

namespace quantloom::cpu {

// `bytes` aligned to a cache line, and their return, with the same size. Thread-safe. Arrays that
// are allocated one after the other lie side by side in blocks of 32 MB; a block goes back to the
// system with the last of its arrays, so that those of a model should be made and freed together.
void* AllocateWeights(size_t bytes);
void FreeWeights(void* p, size_t bytes);

template <typename T>
struct WeightAllocator {
  using value_type = T;

  WeightAllocator() = default;
  template <typename U>
  // NOLINTNEXTLINE(google-explicit-constructor): allocators convert by definition.
  WeightAllocator(const WeightAllocator<U>&) {}

  T* allocate(size_t n) { return static_cast<T*>(AllocateWeights(n * sizeof(T))); }
  void deallocate(T* p, size_t n) { FreeWeights(p, n * sizeof(T)); }
  bool operator==(const WeightAllocator&) const { return true; }
};

template <typename T>
using WeightVector = std::vector<T, WeightAllocator<T>>;

}  // namespace quantloom::cpu
