#include "kernels/cpu/weight_memory.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>

#include "kernels/cpu/aligned.h"

namespace quantloom::cpu {
namespace {

// A block, at a multiple of its size so that an array's address tells its block.
struct alignas(64) Block {
  size_t arrays = 0;
  size_t used = sizeof(Block);  // bytes, from the block's beginning
};

constexpr size_t kBlockBytes = size_t{32} << 20;
constexpr std::align_val_t kBlockAlignment{kBlockBytes};
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kLargestShared = 0;  // every array of its own, so that its ends are watched
#else
// Larger arrays have huge pages of their own.
constexpr size_t kLargestShared = CacheLineAllocator<uint8_t>::kHugeBytes - 1;
#endif

std::mutex& BlocksMutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

// Where the next arrays go; null for none yet.
Block* open_block = nullptr;

void FreeBlock(Block* block) { ::operator delete(block, kBlockAlignment); }

Block* NewBlock() {
  void* p = ::operator new(kBlockBytes, kBlockAlignment);
  madvise(p, kBlockBytes, MADV_HUGEPAGE);  // advice: failing is harmless
  return new (p) Block;
}

}  // namespace

void* AllocateWeights(size_t bytes) {
  if (bytes > kLargestShared) return CacheLineAllocator<uint8_t>().allocate(bytes);
  bytes = (bytes + sizeof(Block) - 1) / sizeof(Block) * sizeof(Block);
  const std::lock_guard lock(BlocksMutex());
  if (open_block == nullptr || open_block->used + bytes > kBlockBytes) open_block = NewBlock();
  void* const p = reinterpret_cast<std::byte*>(open_block) + open_block->used;
  open_block->used += bytes;
  ++open_block->arrays;
  return p;
}

void FreeWeights(void* p, size_t bytes) {
  if (bytes > kLargestShared) {
    return CacheLineAllocator<uint8_t>().deallocate(static_cast<uint8_t*>(p), bytes);
  }
  const std::lock_guard lock(BlocksMutex());
  const size_t offset = reinterpret_cast<uintptr_t>(p) % kBlockBytes;
  auto* const block = reinterpret_cast<Block*>(static_cast<std::byte*>(p) - offset);
  if (--block->arrays > 0) return;
  if (block == open_block) open_block = nullptr;
  FreeBlock(block);
}

}  // namespace quantloom::cpu
