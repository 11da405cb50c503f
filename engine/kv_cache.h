// The paged KV cache: memory in blocks of a fixed number of positions, handed to sequences on
// demand and shared by sequences that begin with the same tokens.
//
// A block table maps a sequence's positions to blocks: position p is in slot p % block_tokens of
// block table[p / block_tokens]. Thread-safety: none; the thread that runs the model owns it.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/format/model_config.h"
#include "engine/backend.h"
#include "engine/prefix_index.h"

namespace quantloom {

using BlockTable = std::vector<int32_t>;

// Keys and values of `from`'s first `positions` are wanted in `to`.
struct BlockCopy {
  int32_t from;
  int32_t to;
  uint32_t positions;
};

// Which blocks are free, which are used by how many tables, and which are merely cached: used by
// none, but with content that a later sequence may want.
//
// Prefix sharing: Publish makes blocks whose positions have been computed findable, Share takes
// found ones over. A shared block is never written: only full blocks are shared, and of one that
// agrees in part, CopyOverlap makes a copy to write on. Cached blocks are evicted when no block is
// free, the least recently used first. A table that uses a published block uses all that precede it
// too, so that a prefix is never evicted before what builds on it.
class BlockAllocator {
 public:
  BlockAllocator(uint32_t blocks, uint32_t block_tokens, ContentHash hash = HashContent);

  uint32_t total() const { return total_; }
  uint32_t cached() const { return static_cast<uint32_t>(cached_.size()); }
  // Can be had: free or cached.
  uint32_t available() const { return static_cast<uint32_t>(free_.size() + cached_.size()); }
  uint32_t used() const { return total_ - available(); }
  uint32_t block_tokens() const { return block_tokens_; }
  uint32_t BlocksFor(uint64_t positions) const {
    return static_cast<uint32_t>((positions + block_tokens_ - 1) / block_tokens_);
  }
  // How many tables use a block.
  uint32_t users(int32_t block) const { return blocks_[static_cast<size_t>(block)].users; }

  // Lengthens `table` so that it covers `positions` positions, evicting cached blocks where no
  // others are free; takes nothing and returns false when there are not enough.
  bool Cover(uint64_t positions, BlockTable& table);
  // Gives up all of the table's blocks and empties it. What was published stays cached.
  void Release(BlockTable& table);

  // What a table's positions hold: keys and values of these tokens, in the tree of this salt.
  struct Content {
    absl::Span<const int32_t> tokens;  // at least as many as the positions spoken of
    absl::string_view salt;
  };

  // Positions [0, cached) of the table are computed; looks for blocks that hold those after them,
  // as far as content.tokens go, and puts them into the table in place of what it has there.
  // Returns the new number of computed positions. Precondition: `cached` is a multiple of
  // block_tokens.
  uint32_t Share(const Content& content, uint32_t cached, BlockTable& table);
  // Where no whole block agrees, the one that agrees in the most positions after `cached`, to be
  // copied into the table's. Preconditions: as Share's, and the table covers content.tokens.
  // The copy must be made before the model next runs, after those that were asked for before.
  std::optional<BlockCopy> CopyOverlap(const Content& content, uint32_t cached,
                                       const BlockTable& table);

  // Positions [0, computed) of the table are computed: the full blocks among them become findable.
  // A block whose content another one holds already gives way to that one. Blocks before position
  // `published` are known to be findable.
  void Publish(const Content& content, uint32_t published, uint32_t computed, BlockTable& table);
  // The same for a last block that is filled in part, where nothing will be written any more.
  void PublishTail(const Content& content, uint32_t computed, const BlockTable& table);

 private:
  struct Block {
    uint32_t users = 0;
    std::list<int32_t>::iterator place;  // in cached_, where it is there
  };
  int32_t Take();
  void Use(int32_t block);
  void Drop(int32_t block);
  PrefixIndex::Place PlaceOf(size_t block, const Content& content, const BlockTable& table) const;

  uint32_t total_;
  uint32_t block_tokens_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // last freed, first used: warm memory, and few pages ever touched
  std::list<int32_t> cached_;  // least recently used first
  PrefixIndex index_;
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
