#include "engine/prefix_index.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace quantloom {
namespace {

// High and low half of the 128-bit product, folded: every input bit reaches every output bit.
uint64_t Mix(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product >> 64) ^ static_cast<uint64_t>(product);
}

// Odd constants without structure: the fractional digits of the golden ratio and of pi.
constexpr uint64_t kTokenKey = 0x9E3779B97F4A7C15;
constexpr uint64_t kStateKey = 0x243F6A8885A308D3;

uint64_t HashSalt(absl::string_view salt) {
  uint64_t state = kTokenKey;
  for (const char c : salt) state = Mix(state ^ static_cast<uint8_t>(c), kStateKey);
  return state;
}

uint32_t CommonPrefix(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
  const size_t length = std::min(a.size(), b.size());
  return static_cast<uint32_t>(std::mismatch(a.begin(), a.begin() + length, b.begin()).first -
                               a.begin());
}

}  // namespace

uint64_t HashContent(uint64_t parent, absl::Span<const int32_t> tokens) {
  uint64_t state = parent ^ tokens.size();
  for (const int32_t token : tokens) {
    state = Mix(state ^ kStateKey, static_cast<uint32_t>(token) ^ kTokenKey);
  }
  return state;
}

uint64_t PrefixIndex::ParentHash(const Place& place) const {
  return place.parent == kNone ? HashSalt(place.salt)
                               : nodes_[static_cast<size_t>(place.parent)].hash;
}

const std::vector<int32_t>* PrefixIndex::ChildrenAt(const Place& place) const {
  if (place.parent != kNone) return &nodes_[static_cast<size_t>(place.parent)].children;
  const auto top = by_salt_.find(std::string(place.salt));
  return top == by_salt_.end() ? nullptr : &top->second;
}

int32_t PrefixIndex::Find(const Place& place, absl::Span<const int32_t> tokens) const {
  const auto [begin, end] = by_hash_.equal_range(hash_(ParentHash(place), tokens));
  for (auto candidate = begin; candidate != end; ++candidate) {
    const Node& node = nodes_[static_cast<size_t>(candidate->second)];
    if (node.parent == place.parent && absl::MakeConstSpan(node.tokens) == tokens &&
        (place.parent != kNone || node.salt == place.salt)) {
      return candidate->second;
    }
  }
  return kNone;
}

PrefixIndex::Overlap PrefixIndex::FindOverlap(const Place& place,
                                              absl::Span<const int32_t> tokens) const {
  Overlap best;
  const std::vector<int32_t>* children = ChildrenAt(place);
  if (children == nullptr) return best;
  for (const int32_t block : *children) {
    const uint32_t common = CommonPrefix(nodes_[static_cast<size_t>(block)].tokens, tokens);
    if (common > best.tokens) best = {block, common};
  }
  return best;
}

void PrefixIndex::Insert(int32_t block, const Place& place, absl::Span<const int32_t> tokens) {
  Node& node = nodes_[static_cast<size_t>(block)];
  node.present = true;
  node.parent = place.parent;
  node.hash = hash_(ParentHash(place), tokens);
  node.tokens.assign(tokens.begin(), tokens.end());
  by_hash_.emplace(node.hash, block);
  if (place.parent == kNone) {
    node.salt = std::string(place.salt);
    by_salt_[node.salt].push_back(block);
  } else {
    nodes_[static_cast<size_t>(place.parent)].children.push_back(block);
  }
}

void PrefixIndex::Erase(int32_t block) {
  Node& node = nodes_[static_cast<size_t>(block)];
  assert(node.present && node.children.empty());
  const auto [begin, end] = by_hash_.equal_range(node.hash);
  by_hash_.erase(
      std::find_if(begin, end, [block](const auto& entry) { return entry.second == block; }));
  const auto top = by_salt_.find(node.salt);
  std::vector<int32_t>& siblings =
      node.parent == kNone ? top->second : nodes_[static_cast<size_t>(node.parent)].children;
  *std::find(siblings.begin(), siblings.end(), block) = siblings.back();
  siblings.pop_back();
  if (node.parent == kNone && siblings.empty()) by_salt_.erase(top);
  node = Node();
}

}  // namespace quantloom
