#include "core/text/bpe.h"

#include <algorithm>
#include <functional>

namespace quantloom {
namespace {

// Longer pieces rarely come twice, and hashing them costs more than it saves.
constexpr size_t kMaxSeenBytes = 64;

}  // namespace

void Bpe::AddMerge(int32_t left, int32_t right, int32_t merged) {
  rules_[PairKey(left, right)] = {static_cast<uint32_t>(merged_of_rank_.size()), merged};
  merged_of_rank_.push_back(merged);
}

void Bpe::Encode(absl::string_view piece, Workspace& workspace) const {
  std::vector<int32_t>& ids = workspace.ids_;
  if (piece.size() > kMaxSeenBytes) return AppendTokens(piece, workspace);
  const auto [it, is_new] = workspace.seen_.try_emplace(piece, ids.size(), 0);
  if (is_new) {
    AppendTokens(piece, workspace);
    it->second.second = ids.size() - it->second.first;
    return;
  }
  const auto [begin, count] = it->second;
  const size_t end = ids.size();
  ids.resize(end + count);
  std::copy_n(ids.begin() + static_cast<ptrdiff_t>(begin), count,
              ids.begin() + static_cast<ptrdiff_t>(end));
}

void Bpe::AppendTokens(absl::string_view piece, Workspace& workspace) const {
  if (!whole_pieces_.empty()) {
    if (const auto it = whole_pieces_.find(piece); it != whole_pieces_.end()) {
      workspace.ids_.push_back(it->second);
      return;
    }
  }
  MakeSymbols(piece, workspace);
  if (workspace.symbols_.empty()) return;
  MergeSymbols(workspace);
  // The first symbol is never merged into another one, so the chain starts at 0.
  for (uint32_t i = 0; i != kEnd; i = workspace.symbols_[i].next) {
    workspace.ids_.push_back(workspace.symbols_[i].id);
  }
}

void Bpe::MakeSymbols(absl::string_view piece, Workspace& workspace) const {
  auto& symbols = workspace.symbols_;
  symbols.clear();
  bool after_unknown = false;
  for (const char c : piece) {
    int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    const bool is_unknown = id == kNoToken;
    if (is_unknown) {
      if (!unknown_.id.has_value() || (unknown_.fuse && after_unknown)) continue;
      id = *unknown_.id;
    }
    after_unknown = is_unknown;
    const auto position = static_cast<uint32_t>(symbols.size());
    symbols.push_back({id, position == 0 ? kEnd : position - 1, position + 1});
  }
  if (!symbols.empty()) symbols.back().next = kEnd;
}

std::optional<uint64_t> Bpe::Candidate(const Workspace& workspace, uint32_t position) const {
  const auto& symbols = workspace.symbols_;
  const uint32_t next = symbols[position].next;
  if (next == kEnd) return std::nullopt;
  const auto rule = rules_.find(PairKey(symbols[position].id, symbols[next].id));
  if (rule == rules_.end()) return std::nullopt;
  return static_cast<uint64_t>(rule->second.rank) << 32 | position;
}

void Bpe::MergeSymbols(Workspace& workspace) const {
  auto& symbols = workspace.symbols_;
  auto& queue = workspace.queue_;
  queue.clear();
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const auto candidate = Candidate(workspace, i)) queue.push_back(*candidate);
  }
  const auto later = std::greater<>();
  std::make_heap(queue.begin(), queue.end(), later);
  const auto push = [&](uint32_t position) {
    if (const auto candidate = Candidate(workspace, position)) {
      queue.push_back(*candidate);
      std::push_heap(queue.begin(), queue.end(), later);
    }
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const auto position = static_cast<uint32_t>(queue.back());
    const int32_t merged = merged_of_rank_[queue.back() >> 32];
    queue.pop_back();
    Workspace::Symbol& left = symbols[position];
    if (left.id == kNoToken || left.next == kEnd) continue;
    // The entry may be older than a merge at this position. As in the reference it still holds if
    // the pair that is there now makes the same token.
    Workspace::Symbol& right = symbols[left.next];
    const auto rule = rules_.find(PairKey(left.id, right.id));
    if (rule == rules_.end() || rule->second.merged != merged) continue;
    left.id = merged;
    left.next = right.next;
    right.id = kNoToken;
    if (left.next != kEnd) symbols[left.next].previous = position;
    if (left.previous != kEnd) push(left.previous);
    push(position);
  }
}

}  // namespace quantloom
