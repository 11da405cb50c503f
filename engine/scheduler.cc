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

}  // namespace

void Scheduler::Enqueue(Sequence& sequence) {
  sequence.arrival = arrivals_++;
  waiting_.push_back(&sequence);
}

void Scheduler::Remove(Sequence& sequence) {
  Erase(running_, sequence);
  Erase(waiting_, sequence);
  blocks_.Release(sequence.blocks);
}

void Scheduler::Preempt(Sequence& sequence) {
  Erase(running_, sequence);
  blocks_.Release(sequence.blocks);
  sequence.cached = 0;
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

bool Scheduler::HasRoomFor(const Sequence& sequence) const {
  if (running_.size() >= limits_.max_running) return false;
  // One block in reserve for each running sequence, so that an admission is not at once undone by
  // the others' growth. Alone, a sequence always has room.
  return blocks_.available() >= blocks_.BlocksFor(sequence.tokens.size()) + running_.size();
}

void Scheduler::Admit() {
  while (true) {
    const auto first = std::find_if(waiting_.begin(), waiting_.end(),
                                    [](const Sequence* sequence) { return !sequence->paused; });
    if (first == waiting_.end()) return;
    Sequence& sequence = **first;
    // No overtaking: a large request at the head is not starved by small ones behind it.
    while (!HasRoomFor(sequence)) {
      if (!PreemptPaused()) return;
    }
    Erase(waiting_, sequence);
    InsertByArrival(running_, sequence);
    blocks_.Cover(sequence.tokens.size(), sequence.blocks);
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

std::vector<Scheduler::Slice> Scheduler::NextStep() {
  Admit();
  std::vector<Slice> step;
  uint32_t budget = limits_.step_tokens;
  // Oldest first: who is preempted for a block is younger than everyone already in the step.
  const std::vector<Sequence*> by_arrival = running_;
  for (Sequence* sequence : by_arrival) {
    // `cached` falls to 0 when a sequence was preempted by an older one in this loop.
    if (sequence->paused || sequence->remaining() != 1 || budget == 0) continue;
    const bool was_preempted = sequence->blocks.empty();
    if (was_preempted || !CoverLastToken(*sequence)) continue;
    step.push_back({sequence, sequence->cached, 1});
    --budget;
  }
  uint32_t score_rows = limits_.score_rows;
  for (Sequence* sequence : running_) {
    if (sequence->paused || sequence->remaining() <= 1) continue;
    uint32_t count = std::min({sequence->remaining(), limits_.prefill_chunk, budget});
    if (sequence->scoring) {
      count = std::min(count, score_rows);
      score_rows -= count;
    }
    if (count == 0) continue;
    step.push_back({sequence, sequence->cached, count});
    budget -= count;
  }
  return step;
}

void Scheduler::Finished(const std::vector<Slice>& step) {
  for (const Slice& slice : step) slice.sequence->cached = slice.begin + slice.count;
}

}  // namespace quantloom
