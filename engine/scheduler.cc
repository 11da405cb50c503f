#include "engine/scheduler.h"

#include <algorithm>

namespace quantloom {
namespace {

void InsertByArrival(std::vector<Sequence*>& list, Sequence& sequence) {
  const auto place = std::upper_bound(
      list.begin(), list.end(), &sequence,
      [](const Sequence* a, const Sequence* b) { return a->arrival < b->arrival; });
  list.insert(place, &sequence);
}

void Erase(std::vector<Sequence*>& list, const Sequence& sequence) {
  list.erase(std::remove(list.begin(), list.end(), &sequence), list.end());
}

// How many of the first tokens' keys and values may come from others: not the positions whose
// logits are wanted.
uint32_t ReusableTokens(const Sequence& sequence) {
  const auto before_last = static_cast<uint32_t>(sequence.tokens.size()) - 1;
  return sequence.scoring ? std::min(sequence.scored, before_last) : before_last;
}

}  // namespace

void Scheduler::Enqueue(Sequence& sequence) {
  sequence.arrival = arrivals_++;
  waiting_.push_back(&sequence);
}

void Scheduler::Remove(Sequence& sequence) {
  Erase(running_, sequence);
  Erase(waiting_, sequence);
  Release(sequence);
}

void Scheduler::Release(Sequence& sequence) {
  if (sequence.share_prefix && !sequence.blocks.empty()) {
    blocks_.PublishTail({sequence.tokens, sequence.salt}, sequence.cached, sequence.blocks);
  }
  blocks_.Release(sequence.blocks);
  sequence.cached = 0;
}

void Scheduler::Preempt(Sequence& sequence) {
  Erase(running_, sequence);
  Release(sequence);
  InsertByArrival(waiting_, sequence);
  ++preemptions_;
}

bool Scheduler::PreemptPaused() {
  const auto youngest = std::find_if(running_.rbegin(), running_.rend(),
                                     [](const Sequence* sequence) { return sequence->paused; });
  if (youngest == running_.rend()) return false;
  Preempt(**youngest);
  return true;
}

void Scheduler::ShareBlocks(Sequence& sequence) {
  if (!sequence.share_prefix || sequence.cached % blocks_.block_tokens() != 0) return;
  const uint32_t reusable = ReusableTokens(sequence);
  if (sequence.cached >= reusable) return;
  sequence.cached =
      blocks_.Share({absl::MakeConstSpan(sequence.tokens).subspan(0, reusable), sequence.salt},
                    sequence.cached, sequence.blocks);
}

void Scheduler::CopyOverlap(Sequence& sequence, Step& step) {
  if (!sequence.share_prefix || sequence.cached % blocks_.block_tokens() != 0) return;
  const uint32_t reusable = ReusableTokens(sequence);
  if (sequence.cached >= reusable) return;
  const auto copy = blocks_.CopyOverlap(
      {absl::MakeConstSpan(sequence.tokens).subspan(0, reusable), sequence.salt}, sequence.cached,
      sequence.blocks);
  if (!copy) return;
  sequence.cached += copy->positions;
  step.copies.push_back(*copy);
}

bool Scheduler::IsComputed(const Sequence& sequence, const Step& step) const {
  const uint32_t block_end = sequence.cached + blocks_.block_tokens();
  if (!sequence.share_prefix || sequence.cached % blocks_.block_tokens() != 0 ||
      block_end > ReusableTokens(sequence)) {
    return false;
  }
  return std::any_of(step.slices.begin(), step.slices.end(), [&](const Slice& slice) {
    const Sequence& other = *slice.sequence;
    return slice.begin + slice.count > sequence.cached && other.share_prefix &&
           other.tokens.size() >= block_end && other.salt == sequence.salt &&
           std::equal(sequence.tokens.begin(), sequence.tokens.begin() + block_end,
                      other.tokens.begin());
  });
}

bool Scheduler::TryAdmit(Sequence& sequence) {
  if (running_.size() >= limits_.max_running) return false;
  ShareBlocks(sequence);
  // One block in reserve for each running sequence, so that an admission is not at once undone by
  // the others' growth. Alone, a sequence always has room.
  const uint64_t needed = blocks_.BlocksFor(sequence.tokens.size()) - sequence.blocks.size();
  if (blocks_.available() < needed + running_.size()) {
    Release(sequence);
    return false;
  }
  blocks_.Cover(sequence.tokens.size(), sequence.blocks);
  return true;
}

void Scheduler::Admit() {
  while (true) {
    const auto first = std::find_if(waiting_.begin(), waiting_.end(),
                                    [](const Sequence* sequence) { return !sequence->paused; });
    if (first == waiting_.end()) return;
    Sequence& sequence = **first;
    // No overtaking: a large request at the head is not starved by small ones behind it.
    while (!TryAdmit(sequence)) {
      if (!PreemptPaused()) return;
    }
    Erase(waiting_, sequence);
    InsertByArrival(running_, sequence);
  }
}

bool Scheduler::CoverLastToken(Sequence& sequence) {
  while (!blocks_.Cover(sequence.tokens.size(), sequence.blocks)) {
    if (PreemptPaused()) continue;
    Sequence& youngest = *running_.back();
    Preempt(youngest);
    if (&youngest == &sequence) return false;
  }
  return true;
}

void Scheduler::AddPrefill(Sequence& sequence, uint32_t budget, Step& step) {
  ShareBlocks(sequence);
  // It follows: what the other computes now is shared next time.
  if (IsComputed(sequence, step)) return;
  CopyOverlap(sequence, step);
  uint32_t count = std::min({sequence.remaining(), limits_.prefill_chunk, budget});
  // Chunks end where blocks do: a block boundary is where sharing can go on.
  const uint32_t beyond_block = (sequence.cached + count) % blocks_.block_tokens();
  if (count < sequence.remaining() && beyond_block < count) count -= beyond_block;
  if (count > 0) step.slices.push_back({&sequence, sequence.cached, count});
}

Scheduler::Step Scheduler::NextStep() {
  Admit();
  Step step;
  uint32_t budget = limits_.step_tokens;
  // Oldest first: who is preempted for a block is younger than everyone already in the step.
  const std::vector<Sequence*> by_arrival = running_;
  for (Sequence* sequence : by_arrival) {
    if (sequence->paused || sequence->remaining() != 1 || budget == 0) continue;
    // An older one in this loop may have preempted it.
    const bool was_preempted = sequence->blocks.empty();
    if (was_preempted || !CoverLastToken(*sequence)) continue;
    step.slices.push_back({sequence, sequence->cached, 1});
    --budget;
  }
  uint32_t score_rows = limits_.score_rows;
  for (Sequence* sequence : running_) {
    if (sequence->paused || sequence->remaining() <= 1) continue;
    const size_t before = step.slices.size();
    AddPrefill(*sequence, sequence->scoring ? std::min(budget, score_rows) : budget, step);
    if (step.slices.size() == before) continue;
    const uint32_t count = step.slices.back().count;
    budget -= count;
    if (sequence->scoring) score_rows -= count;
  }
  return step;
}

void Scheduler::Finished(const Step& step) {
  for (const Slice& slice : step.slices) {
    Sequence& sequence = *slice.sequence;
    sequence.cached = slice.begin + slice.count;
    sequence.scored = std::max(sequence.scored, sequence.cached);
    if (!sequence.share_prefix) continue;
    blocks_.Publish({sequence.tokens, sequence.salt}, slice.begin, sequence.cached,
                    sequence.blocks);
  }
}

}  // namespace quantloom
