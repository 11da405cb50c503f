// The paged KV cache: memory in blocks of a fixed number of positions, handed to sequences on
// demand.
//
// A block table maps a sequence's positions to blocks: position p is in slot p % block_tokens of
// block table[p / block_tokens]. Thread-safety: none; the thread that runs the model owns it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/format/model_config.h"
#include "engine/backend.h"

namespace quantloom {

using BlockTable = std::vector<int32_t>;

// Which blocks are free.
class BlockAllocator {
 public:
  BlockAllocator(uint32_t blocks, uint32_t block_tokens);

  uint32_t total() const { return total_; }
  uint32_t used() const { return total_ - static_cast<uint32_t>(free_.size()); }
  uint32_t available() const { return static_cast<uint32_t>(free_.size()); }
  uint32_t block_tokens() const { return block_tokens_; }
  uint32_t BlocksFor(uint64_t positions) const {
    return static_cast<uint32_t>((positions + block_tokens_ - 1) / block_tokens_);
  }

  // Lengthens `table` so that it covers `positions` positions; takes nothing and returns false
  // when there are not enough free blocks.
  bool Cover(uint64_t positions, BlockTable& table);
  // Returns all of the table's blocks and empties it.
  void Release(BlockTable& table);

 private:
  uint32_t total_;
  uint32_t block_tokens_;
  std::vector<int32_t> free_;  // last freed, first used: warm memory, and few pages ever touched
};

class KvCache {
 public:
  // Room for at least `tokens` positions in blocks of `block_tokens`. INVALID_ARGUMENT when there
  // are more than 2^31 blocks; RESOURCE_EXHAUSTED when memory is short.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(Backend& backend,
                                                         const ModelConfig& config, uint64_t tokens,
                                                         uint32_t block_tokens, KvElement element);
  // Bytes of memory that Create takes.
  static uint64_t Bytes(const ModelConfig& config, uint64_t tokens, uint32_t block_tokens,
                        KvElement element);

  BlockAllocator& blocks() { return blocks_; }
  const BlockAllocator& blocks() const { return blocks_; }
  KvStorage& storage() { return *storage_; }

 private:
  KvCache(BlockAllocator blocks, std::unique_ptr<KvStorage> storage)
      : blocks_(std::move(blocks)), storage_(std::move(storage)) {}
  BlockAllocator blocks_;
  std::unique_ptr<KvStorage> storage_;
};

}  // namespace quantloom
