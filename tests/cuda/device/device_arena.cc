#include "tests/cuda/device/device_arena.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

namespace quantloom::testing {
namespace {

// Blocks have sizes of powers of two; what is freed is found again by its size, which stands before
// it, with room to keep what follows aligned.
constexpr size_t kAlignment = 256;

class Arena {
 public:
  void Use(void* memory, size_t bytes) {
    begin_ = next_ =
        (reinterpret_cast<uintptr_t>(memory) + kAlignment - 1) / kAlignment * kAlignment;
    end_ = reinterpret_cast<uintptr_t>(memory) + bytes;
  }

  void* Take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (end_ == 0) return std::malloc(bytes == 0 ? 1 : bytes);
    const size_t size = std::bit_ceil(bytes + kAlignment);
    Free*& free = free_[static_cast<size_t>(std::countr_zero(size))];
    auto block = reinterpret_cast<uintptr_t>(free);
    if (free != nullptr) {
      free = free->next;
    } else {
      if (size > end_ - next_) {
        std::fprintf(stderr, "the tests' device memory is used up by %zu bytes\n", bytes);
        std::abort();
      }
      block = next_;
      next_ += size;
    }
    *reinterpret_cast<size_t*>(block) = size;
    return reinterpret_cast<void*>(block + kAlignment);
  }

  void Give(void* memory) {
    const auto at = reinterpret_cast<uintptr_t>(memory);
    if (at < begin_ || at >= end_) return std::free(memory);
    const std::lock_guard lock(mutex_);
    const uintptr_t block = at - kAlignment;
    const size_t size = *reinterpret_cast<size_t*>(block);
    Free*& free = free_[static_cast<size_t>(std::countr_zero(size))];
    auto* const freed = reinterpret_cast<Free*>(block);
    freed->next = free;
    free = freed;
  }

 private:
  struct Free {
    Free* next;
  };

  std::mutex mutex_;
  uintptr_t begin_ = 0;
  uintptr_t next_ = 0;
  uintptr_t end_ = 0;
  std::array<Free*, 64> free_ = {};
};

Arena& TheArena() {
  // Never destroyed: memory is given back until the very end.
  alignas(Arena) static unsigned char place[sizeof(Arena)];
  static Arena* const arena = new (place) Arena;
  return *arena;
}

}  // namespace

void UseDeviceArena(void* memory, size_t bytes) { TheArena().Use(memory, bytes); }

}  // namespace quantloom::testing

void* operator new(size_t bytes) { return quantloom::testing::TheArena().Take(bytes); }
void operator delete(void* memory) noexcept {
  if (memory != nullptr) quantloom::testing::TheArena().Give(memory);
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
