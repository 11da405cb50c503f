// What the next step runs: continuous batching over a paged KV cache.
//
// Each step takes one token of every sequence that decodes, then fills the token budget with
// prefill chunks in order of arrival, so that a long prompt does not stall running streams. A
// sequence is admitted when blocks for all its tokens are free. When a decoding sequence finds no
// free block, the youngest running one is preempted: its blocks are freed, and it is recomputed
// from its tokens when it is admitted again. Paused sequences keep their blocks only as long as
// nobody else needs them.
//
// Prefixes are shared (engine/kv_cache.h): a sequence takes over computed blocks of others that
// begin with the same tokens, when it is admitted and before each of its chunks. While another
// sequence is computing the block that it needs next, it waits for that one. What a preempted
// sequence had computed stays findable until the memory is needed.
//
// Pure bookkeeping: no model, no clock, no threads. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/kv_cache.h"

namespace quantloom {

// A sequence's state as the scheduler sees it. The owner appends generated tokens to `tokens` and
// sets `paused`; the rest is the scheduler's to change.
struct Sequence {
  std::vector<int32_t> tokens;  // prompt and generated
  bool scoring = false;         // wants logits of all positions, not only the last
  bool paused = false;
  bool share_prefix = true;  // takes blocks from others, and lets them take its own
  std::string salt;          // shares with sequences of the same salt alone

  uint64_t arrival = 0;
  uint32_t cached = 0;  // positions whose keys and values are in the cache
  uint32_t scored = 0;  // positions that have run, in whatever life: a scoring sequence has their
                        // logits
  BlockTable blocks;

  uint32_t remaining() const { return static_cast<uint32_t>(tokens.size()) - cached; }
};

class Scheduler {
 public:
  struct Limits {
    uint32_t max_running = 16;
    uint32_t step_tokens = 512;    // at least max_running
    uint32_t prefill_chunk = 128;  // of one sequence in one step
    uint32_t score_rows = 32;      // of all scoring sequences in one step, one each beside
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

  // Adds a sequence (not owned) to the end of the queue. Precondition: it has at least one token,
  // and the cache is large enough for all the tokens it will ever have.
  void Enqueue(Sequence& sequence);
  // Forgets a sequence, wherever it is, and frees its blocks.
  void Remove(Sequence& sequence);

  // The next step, at most step_tokens tokens in all; no slices when nothing can run. The caller
  // makes the copies in any case. It runs the slices, then calls Finished.
  Step NextStep();
  // Marks the slices' positions as cached, and lets others find their blocks.
  void Finished(const Step& step);

  size_t running() const { return running_.size(); }
  size_t waiting() const { return waiting_.size(); }
  uint64_t preemptions() const { return preemptions_; }

 private:
  void Admit();
  bool TryAdmit(Sequence& sequence);
  // Takes over whole blocks that hold what the sequence needs next.
  void ShareBlocks(Sequence& sequence);
  // Copies of a block what agrees with what the sequence needs next.
  void CopyOverlap(Sequence& sequence, Step& step);
  // Whether the step computes the block that the sequence needs next.
  bool IsComputed(const Sequence& sequence, const Step& step) const;
  void AddPrefill(Sequence& sequence, uint32_t budget, Step& step);
  // Gives the sequence's blocks up; what they hold stays findable.
  void Release(Sequence& sequence);
  bool PreemptPaused();
  // Makes sure that there is a block for the sequence's last token; false when that took preempting
  // the sequence itself.
  bool CoverLastToken(Sequence& sequence);
  void Preempt(Sequence& sequence);

  Limits limits_;
  BlockAllocator& blocks_;
  std::vector<Sequence*> running_;  // by arrival
  std::vector<Sequence*> waiting_;  // by arrival
  uint64_t arrivals_ = 0;
  uint64_t preemptions_ = 0;
};

}  // namespace quantloom
