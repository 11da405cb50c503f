// What the next step runs: continuous batching over a paged KV cache.
//
// Each step takes one token of every sequence that decodes, then fills what the limits leave with
// prefill chunks. A sequence is admitted when blocks for all its tokens can be had. When a decoding
// sequence finds no block, the running one of the lowest priority that came last is preempted: it
// gives its blocks up, and is recomputed from its tokens when it is admitted again. Paused
// sequences keep their blocks only as long as nobody else needs them.
//
// Who comes first. The next to be admitted is of the highest priority; among those, one that was
// preempted; then one of the client that has been served the fewest tokens (engine/fair_share.h);
// then the oldest. Nobody overtakes it while it waits for blocks. For it, running sequences of a
// lower priority are preempted. So that no priority starves, one that `turn` sequences of higher
// ones have passed has its turn, and who comes in that way is not preempted for a higher priority.
// Prefill chunks go in the same order, but among one client's prompts to the shortest, so that
// short prompts do not wait for long ones; in one step of `patience` the prompt that has been
// passed over most often goes first. The first prompt is not cut in two where that would leave less
// than a second chunk: it would wait for another step of all the others, too.
//
// Prefixes are shared (engine/kv_cache.h): a sequence takes over computed blocks of others that
// begin with the same tokens, when it is admitted and before each of its chunks. While another
// sequence is computing the block that it needs next, it waits for that one. What a preempted
// sequence had computed stays findable until the memory is needed.
//
// Pure bookkeeping: no model, no clock, no threads. Not thread-safe.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/fair_share.h"
#include "engine/kv_cache.h"
#include "engine/standing.h"

namespace quantloom {

// A sequence's state as the scheduler sees it. The owner sets the first group before Enqueue,
// appends generated tokens to `tokens` and sets `paused`; the rest is the scheduler's to change.
struct Sequence {
  // Prompt and generated. The last one may be unknown yet (ChosenInRow): a step that was started
  // before will choose it.
  std::vector<int32_t> tokens;
  Standing standing;
  bool scoring = false;      // wants logits of all positions, not only the last
  bool share_prefix = true;  // takes blocks from others, and lets them take its own
  std::string salt;          // shares with sequences of the same salt alone
  bool paused = false;

  uint64_t arrival = 0;
  uint32_t cached = 0;  // positions whose keys and values are in the cache
  uint32_t scored = 0;  // positions that have run, in whatever life: a scoring sequence has their
                        // logits
  BlockTable blocks;
  Priority level = Priority::kNormal;  // what it runs with: at least its own priority
  uint32_t passed = 0;                 // steps without a chunk since its last
  bool preempted = false;              // since it was last admitted
  FairShare::Account* account = nullptr;

  uint32_t remaining() const { return static_cast<uint32_t>(tokens.size()) - cached; }
};

class Scheduler {
 public:
  struct Limits {
    uint32_t max_running = 16;
    uint32_t step_tokens = 512;   // at least max_running
    uint32_t prefill_chunk = 16;  // of all sequences in one step; twice that to end a prompt
    uint32_t score_rows = 32;     // of all scoring sequences in one step, one each beside
    uint32_t turn = 8;            // admissions
    uint32_t patience = 8;        // steps

    // Tokens that a step may have.
    uint64_t step_rows() const {
      return std::min<uint64_t>(step_tokens, max_running + uint64_t{2} * prefill_chunk);
    }
    // Rows that a step may want logits of.
    uint64_t logit_rows() const { return uint64_t{max_running} + score_rows; }
  };
  // Tokens [begin, begin + count) of a sequence, to be run in this step.
  struct Slice {
    Sequence* sequence;
    uint32_t begin;
    uint32_t count;
  };
  // What the model is to do: first the copies, in order, then the slices in one batch.
  struct Step {
    std::vector<BlockCopy> copies;
    std::vector<Slice> slices;
  };

  // `blocks` must outlive the scheduler.
  Scheduler(const Limits& limits, BlockAllocator& blocks) : limits_(limits), blocks_(blocks) {}

  // Adds a sequence (not owned) to those that wait. Precondition: it has at least one token, and
  // the cache is large enough for all the tokens it will ever have.
  void Enqueue(Sequence& sequence);
  // Forgets a sequence that was added, wherever it is, and gives its blocks up.
  void Remove(Sequence& sequence);

  // The next step, at most step_tokens tokens in all; no slices when nothing can run. The caller
  // makes the copies in any case. It runs the slices, then calls Finished.
  Step NextStep();
  // Marks the slices' positions as cached, lets others find their blocks, and counts them as served
  // to their clients. Where copies and steps run in the order in which they were started, the step
  // need not have run yet, but its tokens must be known; slices of sequences that were removed
  // meanwhile are left out.
  void Finished(const Step& step);

  size_t running() const { return running_.size(); }
  size_t waiting() const { return waiting_.size(); }
  uint64_t preemptions() const { return preemptions_; }

 private:
  void Admit();
  bool TryAdmit(Sequence& sequence);
  // Who is admitted next; null when nobody wants to be.
  Sequence* NextToAdmit() const;
  // The priority whose turn it is though higher ones wait, where there is one.
  std::optional<Priority> Turn() const;
  void CountPassed(const Sequence& admitted, bool had_turn);
  // The paused sequence to be preempted first; null when none is running.
  Sequence* PausedVictim() const;
  // The sequence to be preempted for one of a higher priority; null where that would not admit it.
  Sequence* LowerVictim(const Sequence& sequence) const;
  // Makes sure that there is a block for the sequence's last token; false when that took preempting
  // the sequence itself.
  bool CoverLastToken(Sequence& sequence);
  void Preempt(Sequence& sequence);
  // Gives the sequence's blocks up; what they hold stays findable.
  void Release(Sequence& sequence);

  void AddDecodes(Step& step);
  // At most `left` tokens.
  void AddPrefills(uint32_t left, Step& step);
  // At most `budget` tokens, or `to_end` if those are all that remain. Returns how many were added.
  uint32_t AddPrefill(Sequence& sequence, uint32_t budget, uint32_t to_end, Step& step);
  // Takes over whole blocks that hold what the sequence needs next.
  void ShareBlocks(Sequence& sequence);
  // Copies of a block what agrees with what the sequence needs next.
  void CopyOverlap(Sequence& sequence, Step& step);
  // Whether the step computes the block that the sequence needs next.
  bool IsComputed(const Sequence& sequence, const Step& step) const;

  Limits limits_;
  BlockAllocator& blocks_;
  FairShare shares_;
  std::array<uint32_t, kPriorities> passed_{};  // how many were admitted past each priority
  std::vector<Sequence*> running_;              // highest level first, then by arrival
  std::vector<Sequence*> waiting_;              // in no order
  uint64_t arrivals_ = 0;
  uint64_t prefill_steps_ = 0;
  uint64_t preemptions_ = 0;
};

}  // namespace quantloom
