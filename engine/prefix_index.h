// Which blocks of the KV cache hold the keys and values of which tokens: the prefix cache's index.
//
// The keys and values of a position depend on the tokens up to it and on nothing else (one numeric
// path), so a block can serve every sequence that begins with the same tokens. The index is a tree:
// a node is a block, its content the tokens of the block's positions, its ancestors' contents the
// tokens before them. A full block is found by a content hash chained from its parent's; what is
// found is then compared, parent and tokens, so that a collision costs time and never gives wrong
// results. A block that is only partly filled, or that agrees only in part, is found among its
// parent's children.
//
// Prefixes with different salts share nothing: a tree each.
//
// Knows nothing of who uses a block. Thread-safety: none.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantloom {

// 64-bit hash of a block's content: `parent` is that of the block before, or of the salt.
using ContentHash = uint64_t (*)(uint64_t parent, absl::Span<const int32_t> tokens);
uint64_t HashContent(uint64_t parent, absl::Span<const int32_t> tokens);

class PrefixIndex {
 public:
  static constexpr int32_t kNone = -1;

  // A place in the tree: below the block `parent`, or at the top of the salt's tree. The salt
  // matters only there.
  struct Place {
    int32_t parent = kNone;
    absl::string_view salt = {};
  };

  // For block numbers 0 .. blocks - 1.
  explicit PrefixIndex(uint32_t blocks, ContentHash hash = HashContent)
      : hash_(hash), nodes_(blocks) {}

  bool Contains(int32_t block) const { return nodes_[static_cast<size_t>(block)].present; }
  bool IsLeaf(int32_t block) const { return nodes_[static_cast<size_t>(block)].children.empty(); }

  // The block at `place` whose content is exactly `tokens`; kNone when there is none.
  int32_t Find(const Place& place, absl::Span<const int32_t> tokens) const;

  // The block at `place` whose content agrees with the start of `tokens` for the most positions,
  // and how many; {kNone, 0} when none agrees in the first. Linear in the blocks there.
  struct Overlap {
    int32_t block = kNone;
    uint32_t tokens = 0;
  };
  Overlap FindOverlap(const Place& place, absl::Span<const int32_t> tokens) const;

  // Adds `block` at `place`. Preconditions: it is not in the index, the parent is, and Find does
  // not find its content.
  void Insert(int32_t block, const Place& place, absl::Span<const int32_t> tokens);
  // Precondition: a leaf in the index.
  void Erase(int32_t block);

 private:
  struct Node {
    bool present = false;
    int32_t parent = kNone;
    uint64_t hash = 0;
    std::string salt;             // where parent is kNone
    std::vector<int32_t> tokens;  // 1 .. block_tokens
    std::vector<int32_t> children;
  };
  uint64_t ParentHash(const Place& place) const;
  const std::vector<int32_t>* ChildrenAt(const Place& place) const;

  ContentHash hash_;
  std::vector<Node> nodes_;                                        // by block number
  std::unordered_multimap<uint64_t, int32_t> by_hash_;             // content hash -> block
  std::unordered_map<std::string, std::vector<int32_t>> by_salt_;  // blocks without a parent
};

}  // namespace quantloom
