#include "engine/kv_cache.h"

#include <algorithm>
#include <limits>

#include "core/base/status.h"

namespace quantloom {

BlockAllocator::BlockAllocator(uint32_t blocks, uint32_t block_tokens)
    : total_(blocks), block_tokens_(block_tokens), free_(blocks) {
  for (uint32_t i = 0; i < blocks; ++i) free_[i] = static_cast<int32_t>(blocks - 1 - i);
}

bool BlockAllocator::Cover(uint64_t positions, BlockTable& table) {
  const uint32_t needed = BlocksFor(positions);
  if (needed <= table.size()) return true;
  if (needed - table.size() > free_.size()) return false;
  while (table.size() < needed) {
    table.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void BlockAllocator::Release(BlockTable& table) {
  free_.insert(free_.end(), table.rbegin(), table.rend());
  table.clear();
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
