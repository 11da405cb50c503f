// The transformer's other operators on the CPU. Every one works row by row (token by token, head by
// head) with a fixed reduction order: 16 partial sums, FMA, one tree; the same bits for every SIMD
// target and batch. exp and friends are our own polynomials for the same reason.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace quantloom::cpu {

// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i], i < n.
void RmsNorm(const float* x, const float* weight, size_t n, float eps, float* out);

// Rotates pairs (i, i + head_dim/2) of one head by the angles whose cosines and sines are given
// (head_dim/2 each).
void Rope(float* head, const float* cos, const float* sin, size_t head_dim);

// out[i] = silu(gate[i]) * up[i].
void SwiGlu(const float* gate, const float* up, size_t n, float* out);

// x[i] += y[i].
void Add(float* x, const float* y, size_t n);

// Storage of the KV cache's elements. A block holds the keys of one head as [head_dim,
// block_tokens], so that a vector has one element of many positions, and the values of one head as
// [block_tokens, head_dim].
enum class KvType : uint8_t { kF16, kF32 };
// Converts a head's key or value to the block's `slot`-th position.
void StoreKey(const float* key, size_t head_dim, KvType type, size_t block_tokens, size_t slot,
              void* block);
void StoreValue(const float* value, size_t head_dim, KvType type, size_t slot, void* block);

// A query vector, where its output goes (head_dim floats each), and how many positions it sees.
struct AttentionQuery {
  const float* query;
  float* out;
  size_t length;  // >= 1
};
// Queries against one cached head: the query heads that share it, and rows of a prompt with their
// own lengths; those of equal length that follow each other are fastest. Position p's key and value
// are in blocks keys[p / block_tokens] and values[p / block_tokens]; blocks up to the longest
// query's are read. Softmax of q k^T * scale in one pass over positions in ascending order (online
// softmax in chunks of fixed size), so a result depends only on its query and the first `length`
// positions, not on the other queries.
void Attend(absl::Span<const AttentionQuery> queries, absl::Span<const std::byte* const> keys,
            absl::Span<const std::byte* const> values, size_t block_tokens, KvType type,
            size_t head_dim, float scale);

// log(sum(exp(x))) of n values, fixed order.
float LogSumExp(const float* x, size_t n);
// Index of the largest value, the first of equals; NaN counts as smallest.
size_t ArgMax(const float* x, size_t n);
// Natural exponential, one value, the polynomial the kernels use.
float Exp(float x);

}  // namespace quantloom::cpu
