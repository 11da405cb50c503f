// A sequence's logits, computed in chunks and beside another sequence: what tests of batch
// invariance share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/model.h"

namespace quantloom::testing {

// Runs a sequence through a cache in runs of the given lengths, another sequence's tokens beside
// it, and returns the logits of every position.
inline std::vector<std::vector<float>> LogitsInChunks(const Model& model, KvElement element,
                                                      const std::vector<int32_t>& tokens,
                                                      const std::vector<size_t>& chunks,
                                                      bool with_other) {
  auto kv = KvCache::Create(model.backend(), model.config(), 512, 4, element).value();
  auto workspace = model.CreateWorkspace(256, 256);
  const std::vector<int32_t> other(tokens.rbegin(), tokens.rend());
  BlockTable blocks;
  BlockTable other_blocks;
  std::vector<std::vector<float>> out;
  size_t begin = 0;
  for (size_t i = 0; begin < tokens.size(); ++i) {
    const size_t count = std::min(chunks[i % chunks.size()], tokens.size() - begin);
    RaggedBatch batch;
    if (with_other) {
      kv->blocks().Cover(i + 1, other_blocks);
      batch.Add({&other[i], 1}, static_cast<uint32_t>(i), other_blocks);
    }
    kv->blocks().Cover(begin + count, blocks);
    batch.Add({&tokens[begin], count}, static_cast<uint32_t>(begin), blocks);
    model.Forward(batch, kv->storage(), *workspace);
    for (size_t row = batch.size() - count; row < batch.size(); ++row) {
      const auto logits = model.Logits({static_cast<uint32_t>(row)}, *workspace).value();
      out.emplace_back(logits.begin(), logits.end());
    }
    begin += count;
  }
  return out;
}

}  // namespace quantloom::testing
