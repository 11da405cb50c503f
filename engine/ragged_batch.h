// Tokens of several sequences, concatenated: any mix of prefill chunks and single decode tokens.
//
// A token may be one that the step before chooses (Backend::ChooseTokens), and that the host need
// not know yet: ChosenInRow(i), a negative number, is the one of that step's i-th selected row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quantloom {

constexpr int32_t ChosenInRow(size_t selected_row) { return ~static_cast<int32_t>(selected_row); }
constexpr bool IsChosenInRow(int32_t token) { return token < 0; }
// The selected row of such a token.
constexpr size_t RowOfChosen(int32_t token) { return static_cast<uint32_t>(~token); }

// Sequence s contributes a run of consecutive positions; its keys and values live in the cache
// blocks that its block table names: position p in block_tables[s][p / block_tokens], slot
// p % block_tokens.
class RaggedBatch {
 public:
  void Clear() {
    tokens_.clear();
    positions_.clear();
    sequences_.clear();
    block_tables_.clear();
  }
  // Adds one sequence's run: tokens[i] is at `position` + i, the positions before are already
  // cached. `blocks` covers all of them and must stay valid while the batch is used.
  void Add(absl::Span<const int32_t> tokens, uint32_t position, absl::Span<const int32_t> blocks) {
    const auto sequence = static_cast<uint32_t>(block_tables_.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens_.push_back(tokens[i]);
      positions_.push_back(position + static_cast<uint32_t>(i));
      sequences_.push_back(sequence);
    }
    block_tables_.push_back(blocks);
  }

  size_t size() const { return tokens_.size(); }  // rows of the batch
  absl::Span<const int32_t> tokens() const { return tokens_; }
  absl::Span<const uint32_t> positions() const { return positions_; }
  uint32_t sequence(size_t row) const { return sequences_[row]; }  // by order of Add
  absl::Span<const int32_t> block_table(size_t row) const { return block_tables_[sequences_[row]]; }

 private:
  std::vector<int32_t> tokens_;      // [rows]
  std::vector<uint32_t> positions_;  // [rows]
  std::vector<uint32_t> sequences_;  // [rows], index into block_tables_
  std::vector<absl::Span<const int32_t>> block_tables_;
};

}  // namespace quantloom
