// A ragged batch and the paged KV cache as kernels see them.
#pragma once

#include <cstdint>

namespace quantloom::cuda {

// Rows of a batch (engine/ragged_batch.h) in device memory. A row at position -1 is padding: it has
// no sequence, nothing is stored for it, and its results are unspecified.
struct BatchView {
  const int32_t* tokens;     // [rows]
  const int32_t* positions;  // [rows]
  const uint32_t* tables;    // [rows]: where in `blocks` the block table of its sequence begins
  const int32_t* blocks;     // block tables, one after another
  uint32_t rows;
};

// One layer's keys and values, fp16: position p of a sequence is slot p % block_tokens of block
// table[p / block_tokens]. A block is [keys, values][kv head][slot][head_dim].
struct KvView {
  uint16_t* keys;         // of block 0
  uint64_t block_stride;  // elements from one block to the next
  uint32_t block_tokens;
  uint32_t kv_heads;
  uint32_t head_dim;

  uint64_t plane() const { return uint64_t{kv_heads} * block_tokens * head_dim; }
};

}  // namespace quantloom::cuda
