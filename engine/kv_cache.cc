#include "engine/kv_cache.h"

#include <algorithm>
#include <limits>

#include "core/base/status.h"

namespace quantloom {

BlockAllocator::BlockAllocator(uint32_t blocks, uint32_t block_tokens, ContentHash hash)
    : total_(blocks),
      block_tokens_(block_tokens),
      blocks_(blocks),
      free_(blocks),
      index_(blocks, hash) {
  for (uint32_t i = 0; i < blocks; ++i) free_[i] = static_cast<int32_t>(blocks - 1 - i);
}

// Precondition: available() > 0.
int32_t BlockAllocator::Take() {
  if (free_.empty()) {
    // A leaf: whoever used a descendant used this block as well and released it later.
    index_.Erase(cached_.front());
    free_.push_back(cached_.front());
    cached_.pop_front();
  }
  const int32_t block = free_.back();
  free_.pop_back();
  blocks_[static_cast<size_t>(block)].users = 1;
  return block;
}

void BlockAllocator::Use(int32_t block) {
  Block& state = blocks_[static_cast<size_t>(block)];
  if (state.users++ == 0) cached_.erase(state.place);
}

void BlockAllocator::Drop(int32_t block) {
  Block& state = blocks_[static_cast<size_t>(block)];
  if (--state.users > 0) return;
  if (index_.Contains(block)) {
    state.place = cached_.insert(cached_.end(), block);
  } else {
    free_.push_back(block);
  }
}

bool BlockAllocator::Cover(uint64_t positions, BlockTable& table) {
  const uint32_t needed = BlocksFor(positions);
  if (needed <= table.size()) return true;
  if (needed - table.size() > available()) return false;
  while (table.size() < needed) table.push_back(Take());
  return true;
}

void BlockAllocator::Release(BlockTable& table) {
  // The last first: they are evicted before those that they build on.
  for (auto block = table.rbegin(); block != table.rend(); ++block) Drop(*block);
  table.clear();
}

PrefixIndex::Place BlockAllocator::PlaceOf(size_t block, const Content& content,
                                           const BlockTable& table) const {
  return {.parent = block == 0 ? PrefixIndex::kNone : table[block - 1], .salt = content.salt};
}

uint32_t BlockAllocator::Share(const Content& content, uint32_t cached, BlockTable& table) {
  for (size_t i = cached / block_tokens_; cached + block_tokens_ <= content.tokens.size(); ++i) {
    const int32_t found =
        index_.Find(PlaceOf(i, content, table), content.tokens.subspan(cached, block_tokens_));
    if (found == PrefixIndex::kNone) break;
    Use(found);
    if (i < table.size()) {
      Drop(table[i]);
      table[i] = found;
    } else {
      table.push_back(found);
    }
    cached += block_tokens_;
  }
  return cached;
}

std::optional<BlockCopy> BlockAllocator::CopyOverlap(const Content& content, uint32_t cached,
                                                     const BlockTable& table) {
  const size_t i = cached / block_tokens_;
  const PrefixIndex::Overlap overlap =
      index_.FindOverlap(PlaceOf(i, content, table), content.tokens.subspan(cached, block_tokens_));
  if (overlap.tokens == 0) return std::nullopt;
  if (users(overlap.block) == 0) {  // now the most recently used
    cached_.splice(cached_.end(), cached_, blocks_[static_cast<size_t>(overlap.block)].place);
  }
  return BlockCopy{.from = overlap.block, .to = table[i], .positions = overlap.tokens};
}

void BlockAllocator::Publish(const Content& content, uint32_t published, uint32_t computed,
                             BlockTable& table) {
  for (size_t i = published / block_tokens_; (i + 1) * block_tokens_ <= computed; ++i) {
    if (index_.Contains(table[i])) continue;
    const PrefixIndex::Place place = PlaceOf(i, content, table);
    const auto tokens = content.tokens.subspan(i * block_tokens_, block_tokens_);
    const int32_t same = index_.Find(place, tokens);
    if (same == PrefixIndex::kNone) {
      index_.Insert(table[i], place, tokens);
      continue;
    }
    Use(same);
    Drop(table[i]);
    table[i] = same;
  }
}

void BlockAllocator::PublishTail(const Content& content, uint32_t computed,
                                 const BlockTable& table) {
  const uint32_t filled = computed % block_tokens_;
  if (filled == 0) return;
  const size_t i = computed / block_tokens_;
  const PrefixIndex::Place place = PlaceOf(i, content, table);
  const auto tokens = content.tokens.subspan(i * block_tokens_, filled);
  if (index_.FindOverlap(place, tokens).tokens == filled) return;
  index_.Insert(table[i], place, tokens);
}

namespace {

KvShape ShapeFor(const ModelConfig& config, uint64_t blocks, uint32_t block_tokens,
                 KvElement element) {
  KvShape shape;
  shape.layers = static_cast<uint32_t>(config.num_layers);
  shape.blocks = static_cast<uint32_t>(blocks);
  shape.block_tokens = block_tokens;
  shape.kv_heads = static_cast<uint32_t>(config.num_kv_heads);
  shape.head_dim = static_cast<uint32_t>(config.head_dim);
  shape.element = element;
  return shape;
}

uint64_t BlocksFor(uint64_t tokens, uint32_t block_tokens) {
  return std::max<uint64_t>(1, (tokens + block_tokens - 1) / block_tokens);
}

}  // namespace

uint64_t KvCache::Bytes(const ModelConfig& config, uint64_t tokens, uint32_t block_tokens,
                        KvElement element) {
  return BlocksFor(tokens, block_tokens) *
         ShapeFor(config, /*blocks=*/1, block_tokens, element).block_bytes();
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(Backend& backend,
                                                         const ModelConfig& config, uint64_t tokens,
                                                         uint32_t block_tokens, KvElement element) {
  if (block_tokens == 0) return absl::InvalidArgumentError("kv_block_tokens must be positive");
  const uint64_t blocks = BlocksFor(tokens, block_tokens);
  if (blocks > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a KV cache of ", tokens, " tokens in blocks of ", block_tokens, " has too many blocks"));
  }
  const KvShape shape = ShapeFor(config, blocks, block_tokens, element);
  QL_ASSIGN_OR_RETURN(auto storage, backend.AllocateKv(shape));
  return std::unique_ptr<KvCache>(
      new KvCache(BlockAllocator(shape.blocks, block_tokens), std::move(storage)));
}

}  // namespace quantloom
