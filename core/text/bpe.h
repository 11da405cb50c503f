// Byte pair encoding of one piece of text: start from single bytes, then apply the known merge of
// lowest rank, leftmost first, until none applies (Sennrich et al. 2016, section 3.2).
//
// Thread-safety: Bpe is immutable; a Workspace belongs to one call.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace quantloom {

class Bpe {
 public:
  // Bytes that no token stands for become `unknown`, runs of them one token with `fuse_unknown`;
  // they vanish when there is no `unknown`.
  struct Unknown {
    std::optional<int32_t> id;
    bool fuse = false;
  };
  static constexpr int32_t kNoToken = -1;

  // `byte_ids`: the token of each single byte, or kNoToken.
  Bpe(const std::array<int32_t, 256>& byte_ids, Unknown unknown)
      : byte_ids_(byte_ids), unknown_(unknown) {}

  // Adds the merge of next lower priority. One that is there already moves to this priority.
  void AddMerge(int32_t left, int32_t right, int32_t merged);
  // Makes a piece that is `bytes` as a whole that token, whatever the merges say.
  void AddWholePiece(std::string bytes, int32_t id) { whole_pieces_[std::move(bytes)] = id; }

  // Memory that is kept from piece to piece, and the pieces already encoded: their text must
  // outlive it, and so must the output vector.
  class Workspace {
   public:
    explicit Workspace(std::vector<int32_t>& ids) : ids_(ids) {}

   private:
    friend class Bpe;
    struct Symbol {
      int32_t id;  // kNoToken once merged into its left neighbour
      uint32_t previous;
      uint32_t next;
    };
    std::vector<int32_t>& ids_;
    std::vector<Symbol> symbols_;
    std::vector<uint64_t> queue_;  // min-heap of rank << 32 | position of the left symbol
    // Where in `ids_` the tokens of a piece seen before lie: begin and count.
    absl::flat_hash_map<absl::string_view, std::pair<size_t, size_t>> seen_;
  };

  // Appends the tokens of `piece` to the workspace's ids. O(n log n) time and O(n) memory in the
  // piece's bytes, which must be fewer than 2^32 - 1.
  void Encode(absl::string_view piece, Workspace& workspace) const;

 private:
  static constexpr uint32_t kEnd = 0xFFFFFFFF;
  struct MergeRule {
    uint32_t rank;
    int32_t merged;
  };
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  void AppendTokens(absl::string_view piece, Workspace& workspace) const;
  void MakeSymbols(absl::string_view piece, Workspace& workspace) const;
  void MergeSymbols(Workspace& workspace) const;
  // The queue entry for the symbol at `position` and its successor, if a merge exists.
  std::optional<uint64_t> Candidate(const Workspace& workspace, uint32_t position) const;

  std::array<int32_t, 256> byte_ids_;
  Unknown unknown_;
  absl::flat_hash_map<uint64_t, MergeRule> rules_;
  std::vector<int32_t> merged_of_rank_;
  absl::flat_hash_map<std::string, int32_t> whole_pieces_;
};

}  // namespace quantloom
