#include "engine/scheduler.h"

#include <algorithm>
#include <tuple>

namespace quantloom {
namespace {

void Erase(std::vector<Sequence*>& list, const Sequence& sequence) {
  list.erase(std::remove(list.begin(), list.end(), &sequence), list.end());
}

// The order of running_.
bool Outranks(const Sequence* a, const Sequence* b) {
  return a->level != b->level ? a->level > b->level : a->arrival < b->arrival;
}

// The order of admission among equal priorities.
bool AdmittedBefore(const Sequence* a, const Sequence* b) {
  const auto key = [](const Sequence* s) {
    return std::make_tuple(!s->preempted, s->account->served, s->arrival);
  };
  return key(a) < key(b);
}

size_t Index(Priority priority) { return static_cast<size_t>(priority); }

// How many of the first tokens' keys and values may come from others: not the positions whose
// logits are wanted.
uint32_t ReusableTokens(const Sequence& sequence) {
  const auto before_last = static_cast<uint32_t>(sequence.tokens.size()) - 1;
  return sequence.scoring ? std::min(sequence.scored, before_last) : before_last;
}

BlockAllocator::Content Reusable(const Sequence& sequence) {
  return {absl::MakeConstSpan(sequence.tokens).subspan(0, ReusableTokens(sequence)), sequence.salt};
}

}  // namespace

void Scheduler::Enqueue(Sequence& sequence) {
  sequence.arrival = arrivals_++;
  sequence.account = &shares_.Join(sequence.standing.client);
  waiting_.push_back(&sequence);
}

void Scheduler::Remove(Sequence& sequence) {
  Erase(running_, sequence);
  Erase(waiting_, sequence);
  Release(sequence);
  shares_.Leave(*sequence.account);
  sequence.account = nullptr;
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
  sequence.preempted = true;
  waiting_.push_back(&sequence);
  ++preemptions_;
}

// --- Admission

Sequence* Scheduler::PausedVictim() const {
  const auto last = std::find_if(running_.rbegin(), running_.rend(),
                                 [](const Sequence* sequence) { return sequence->paused; });
  return last == running_.rend() ? nullptr : *last;
}

Sequence* Scheduler::LowerVictim(const Sequence& sequence) const {
  uint64_t blocks = blocks_.available();
  uint64_t left = running_.size();
  for (auto victim = running_.rbegin(); victim != running_.rend(); ++victim) {
    if ((*victim)->level >= sequence.standing.priority) return nullptr;
    blocks += (*victim)->blocks.size();
    if (blocks >= blocks_.BlocksFor(sequence.tokens.size()) + --left) return running_.back();
  }
  return nullptr;
}

std::optional<Priority> Scheduler::Turn() const {
  const auto most = std::max_element(passed_.begin(), passed_.end());
  if (*most < limits_.turn) return std::nullopt;
  return static_cast<Priority>(most - passed_.begin());
}

Sequence* Scheduler::NextToAdmit() const {
  const std::optional<Priority> turn = Turn();
  const auto rank = [&](const Sequence* s) {
    return s->standing.priority == turn ? kPriorities : Index(s->standing.priority);
  };
  Sequence* first = nullptr;
  for (Sequence* sequence : waiting_) {
    if (sequence->paused) continue;
    if (first == nullptr || rank(sequence) > rank(first) ||
        (rank(sequence) == rank(first) && AdmittedBefore(sequence, first))) {
      first = sequence;
    }
  }
  return first;
}

void Scheduler::CountPassed(const Sequence& admitted, bool had_turn) {
  const size_t priority = Index(admitted.standing.priority);
  passed_[priority] = 0;
  if (had_turn) return;
  std::array<bool, kPriorities> waits{};
  for (const Sequence* sequence : waiting_) {
    if (!sequence->paused) waits[Index(sequence->standing.priority)] = true;
  }
  for (size_t lower = 0; lower < priority; ++lower) {
    passed_[lower] = waits[lower] ? passed_[lower] + 1 : 0;
  }
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
  while (Sequence* next = NextToAdmit()) {
    while (!TryAdmit(*next)) {
      Sequence* victim = PausedVictim();
      if (victim == nullptr) victim = LowerVictim(*next);
      if (victim == nullptr) return;
      Preempt(*victim);
    }
    Erase(waiting_, *next);
    const bool had_turn = Turn() == next->standing.priority;
    CountPassed(*next, had_turn);
    next->preempted = false;
    next->level = had_turn ? Priority::kHigh : next->standing.priority;
    running_.insert(std::upper_bound(running_.begin(), running_.end(), next, Outranks), next);
  }
}

// --- A step

bool Scheduler::CoverLastToken(Sequence& sequence) {
  while (!blocks_.Cover(sequence.tokens.size(), sequence.blocks)) {
    Sequence* victim = PausedVictim();
    if (victim == nullptr) victim = running_.back();
    Preempt(*victim);
    if (victim == &sequence) return false;
  }
  return true;
}

void Scheduler::AddDecodes(Step& step) {
  // In the order of running_: who is preempted for a block comes after everyone in the step.
  const std::vector<Sequence*> running = running_;
  for (Sequence* sequence : running) {
    if (sequence->paused || sequence->remaining() != 1) continue;
    const bool was_preempted = sequence->blocks.empty();  // in this loop
    if (was_preempted || !CoverLastToken(*sequence)) continue;
    step.slices.push_back({sequence, sequence->cached, 1});
  }
}

void Scheduler::AddPrefills(uint32_t left, Step& step) {
  std::vector<Sequence*> prompts;
  for (Sequence* sequence : running_) {
    if (!sequence->paused && sequence->remaining() > 1) prompts.push_back(sequence);
  }
  const auto key = [](const Sequence* s) {
    return std::make_tuple(-static_cast<int>(s->level), s->account->served, s->remaining(),
                           s->arrival);
  };
  std::sort(prompts.begin(), prompts.end(),
            [&](const Sequence* a, const Sequence* b) { return key(a) < key(b); });
  if (++prefill_steps_ % limits_.patience == 0 && !prompts.empty()) {
    const auto passed_over = std::max_element(
        prompts.begin(), prompts.end(),
        [](const Sequence* a, const Sequence* b) { return a->passed < b->passed; });
    std::rotate(prompts.begin(), passed_over, passed_over + 1);
  }
  uint32_t budget = std::min(left, limits_.prefill_chunk);
  uint32_t score_rows = limits_.score_rows;
  for (Sequence* sequence : prompts) {
    uint32_t added = 0;
    if (sequence->scoring) {
      const uint32_t most = std::min(budget, score_rows);
      added = AddPrefill(*sequence, most, most, step);
      score_rows -= added;
    } else {
      const bool first = budget == limits_.prefill_chunk;
      const auto to_end = first ? std::min<uint64_t>(left, uint64_t{2} * budget) : budget;
      added = AddPrefill(*sequence, budget, static_cast<uint32_t>(to_end), step);
    }
    budget -= std::min(budget, added);
    sequence->passed = added > 0 ? 0 : sequence->passed + 1;
  }
}

uint32_t Scheduler::AddPrefill(Sequence& sequence, uint32_t budget, uint32_t to_end, Step& step) {
  if (budget == 0) return 0;
  ShareBlocks(sequence);
  // It follows: what the other computes now is shared next time.
  if (IsComputed(sequence, step)) return 0;
  CopyOverlap(sequence, step);
  uint32_t count = sequence.remaining() <= to_end ? sequence.remaining() : budget;
  // Chunks end where blocks do: a block boundary is where sharing can go on.
  const uint32_t beyond_block = (sequence.cached + count) % blocks_.block_tokens();
  if (count < sequence.remaining() && beyond_block < count) count -= beyond_block;
  if (count > 0) step.slices.push_back({&sequence, sequence.cached, count});
  return count;
}

void Scheduler::ShareBlocks(Sequence& sequence) {
  if (!sequence.share_prefix || sequence.cached % blocks_.block_tokens() != 0) return;
  sequence.cached = blocks_.Share(Reusable(sequence), sequence.cached, sequence.blocks);
}

void Scheduler::CopyOverlap(Sequence& sequence, Step& step) {
  if (!sequence.share_prefix || sequence.cached % blocks_.block_tokens() != 0 ||
      sequence.cached >= ReusableTokens(sequence)) {
    return;
  }
  const auto copy = blocks_.CopyOverlap(Reusable(sequence), sequence.cached, sequence.blocks);
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

Scheduler::Step Scheduler::NextStep() {
  Admit();
  Step step;
  AddDecodes(step);
  AddPrefills(limits_.step_tokens - static_cast<uint32_t>(step.slices.size()), step);
  return step;
}

void Scheduler::Finished(const Step& step) {
  for (const Slice& slice : step.slices) {
    Sequence& sequence = *slice.sequence;
    sequence.cached = slice.begin + slice.count;
    sequence.scored = std::max(sequence.scored, sequence.cached);
    sequence.account->served += slice.count;
    if (!sequence.share_prefix) continue;
    blocks_.Publish({sequence.tokens, sequence.salt}, slice.begin, sequence.cached,
                    sequence.blocks);
  }
}

}  // namespace quantloom
