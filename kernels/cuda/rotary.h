// What happens to queries, keys and values between their products and attention.
#pragma once

#include <cstdint>

#include "kernels/cuda/batch.h"
#include "kernels/cuda/stream.h"

namespace quantloom::cuda {

struct RotaryParameters {
  uint32_t heads;       // of queries; those of keys and values, and head_dim, are the cache's
  const float* q_norm;  // [head_dim], or null
  const float* k_norm;
  float norm_eps;
};

// qkv [rows, (heads + 2 kv_heads) head_dim]. Normalizes each query and key head where there is a
// weight (as RmsNorm; lane l of a warp sums columns l, l + 32, ...), rotates pairs (i, i +
// head_dim/2) by the row's angles [rows, head_dim]: head_dim/2 cosines, then as many sines (Su et
// al., arXiv 2104.09864). Queries are left in qkv, keys and values go to the cache. head_dim is
// even. Null, or why the kernel could not be launched.
const char* RotateAndStore(const BatchView& batch, const RotaryParameters& parameters,
                           const float* angles, float* qkv, const KvView& kv, Stream stream);

}  // namespace quantloom::cuda
