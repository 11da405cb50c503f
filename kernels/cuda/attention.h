// Attention over the paged KV cache, with grouped queries.
#pragma once

#include <cstdint>

#include "core/base/host_device.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

// Positions whose softmax is formed on its own. Partitions are merged in ascending order, so that a
// row's result depends on its own length alone, however they are spread over blocks.
constexpr uint32_t kAttentionPartition = 256;
constexpr uint32_t kMaxHeadDim = 256;

// Rows of a tile share what is loaded of the cache: consecutive rows of one sequence.
struct AttentionTile {
  uint32_t first_row;
  uint32_t rows;  // 1 .. AttentionTileRows
};
// Most rows of a tile, where `group` query heads share a head of keys and values.
constexpr uint32_t AttentionTileRows(uint32_t group) { return group >= 8 ? 1 : 8 / group; }

struct AttentionArguments {
  const float* qkv = nullptr;  // [rows, (heads + 2 kv_heads) head_dim]: queries first
  uint32_t heads = 0;          // a multiple of the cache's kv_heads
  float scale = 1;             // of q k^T
  float* out = nullptr;        // [rows, heads head_dim]
  // The tiles; null: each row is one.
  const AttentionTile* tiles = nullptr;
  uint32_t tile_count = 0;
  // Where partitions go to different blocks: room for their results, and how many the longest
  // row may have. Null: a block takes its tile's partitions one after the other. Same values.
  float* partials = nullptr;  // [rows, heads, partitions, head_dim + 2]
  uint32_t partitions = 0;
};
QL_HOST_DEVICE constexpr uint64_t AttentionPartialFloats(uint32_t head_dim) {
  return uint64_t{head_dim} + 2;
}

// out[t] = softmax(q k^T scale) v over positions 0 .. position(t) of the row's sequence, online
// (Dao et al., arXiv 2205.14135; split as in Flash-Decoding). head_dim is a multiple of 8, at most
// kMaxHeadDim. Null, or why the kernel could not be launched.
const char* Attend(const BatchView& batch, const KvView& kv, const AttentionArguments& arguments,
                   Stream stream);

}  // namespace quantloom::cuda
