#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace quantloom {
namespace {

Sequence OfLength(size_t tokens) {
  Sequence sequence;
  sequence.tokens.assign(tokens, 1);
  return sequence;
}

const Scheduler::Slice* Find(const std::vector<Scheduler::Slice>& step, const Sequence& sequence) {
  const auto slice = std::find_if(
      step.begin(), step.end(), [&](const Scheduler::Slice& s) { return s.sequence == &sequence; });
  return slice == step.end() ? nullptr : &*slice;
}

// Runs a step as a model would: every sequence whose last token ran gets one more.
std::vector<Scheduler::Slice> Step(Scheduler& scheduler) {
  const std::vector<Scheduler::Slice> step = scheduler.NextStep();
  scheduler.Finished(step);
  for (const Scheduler::Slice& slice : step) {
    if (slice.sequence->remaining() == 0 && !slice.sequence->scoring)
      slice.sequence->tokens.push_back(1);
  }
  return step;
}

TEST(BlockAllocator, CoversAllOrNothing) {
  BlockAllocator blocks(4, 16);
  BlockTable first;
  BlockTable second;
  EXPECT_TRUE(blocks.Cover(33, first));
  EXPECT_EQ(first.size(), 3u);
  EXPECT_FALSE(blocks.Cover(17, second));
  EXPECT_TRUE(second.empty());
  EXPECT_TRUE(blocks.Cover(16, second));
  EXPECT_EQ(blocks.available(), 0u);
  std::set<int32_t> distinct(first.begin(), first.end());
  distinct.insert(second.begin(), second.end());
  EXPECT_EQ(distinct, (std::set<int32_t>{0, 1, 2, 3}));
  EXPECT_TRUE(blocks.Cover(48, first)) << "already covered";
  blocks.Release(first);
  EXPECT_EQ(blocks.used(), 1u);
}

TEST(Scheduler, MixesDecodeTokensWithPrefillChunksWithinTheBudget) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({.max_running = 4, .step_tokens = 12, .prefill_chunk = 8}, blocks);
  Sequence decoding = OfLength(3);
  Sequence long_prompt = OfLength(20);
  Sequence other_prompt = OfLength(20);
  scheduler.Enqueue(decoding);
  EXPECT_EQ(Step(scheduler).size(), 1u);
  scheduler.Enqueue(long_prompt);
  scheduler.Enqueue(other_prompt);

  const auto step = Step(scheduler);
  ASSERT_EQ(step.size(), 3u);
  EXPECT_EQ(Find(step, decoding)->count, 1u);
  EXPECT_EQ(Find(step, long_prompt)->count, 8u);
  EXPECT_EQ(Find(step, other_prompt)->count, 3u) << "what the budget leaves";
  EXPECT_EQ(Find(Step(scheduler), long_prompt)->begin, 8u);
}

TEST(Scheduler, ARequestThatLacksBlocksWaitsAndIsNotOvertaken) {
  BlockAllocator blocks(4, 16);
  Scheduler scheduler({}, blocks);
  Sequence first = OfLength(33);
  Sequence large = OfLength(30);
  Sequence small = OfLength(1);
  scheduler.Enqueue(first);
  scheduler.Enqueue(large);
  scheduler.Enqueue(small);
  auto step = Step(scheduler);
  EXPECT_EQ(Find(step, large), nullptr);
  EXPECT_EQ(Find(step, small), nullptr);
  scheduler.Remove(first);
  step = Step(scheduler);
  EXPECT_NE(Find(step, large), nullptr);
  EXPECT_NE(Find(step, small), nullptr);
  scheduler.Remove(large);
  scheduler.Remove(small);
  EXPECT_EQ(blocks.used(), 0u);
}

TEST(Scheduler, PreemptsTheYoungestWhenBlocksRunOut) {
  BlockAllocator blocks(4, 4);
  Scheduler scheduler({}, blocks);
  Sequence old = OfLength(4);
  Sequence young = OfLength(3);
  scheduler.Enqueue(old);
  scheduler.Enqueue(young);
  while (scheduler.preemptions() == 0) ASSERT_FALSE(Step(scheduler).empty());
  EXPECT_EQ(young.cached, 0u);
  EXPECT_TRUE(young.blocks.empty());
  EXPECT_EQ(scheduler.running(), 1u);
  // It is recomputed, its generated tokens included, once there is room again.
  const auto tokens = static_cast<uint32_t>(young.tokens.size());
  EXPECT_EQ(Find(Step(scheduler), young), nullptr);
  scheduler.Remove(old);
  const auto step = Step(scheduler);
  ASSERT_NE(Find(step, young), nullptr);
  EXPECT_EQ(Find(step, young)->begin, 0u);
  EXPECT_EQ(Find(step, young)->count, tokens);
}

TEST(Scheduler, APausedSequenceKeepsItsBlocksUntilSomebodyNeedsThem) {
  BlockAllocator blocks(4, 4);
  Scheduler scheduler({}, blocks);
  Sequence paused = OfLength(8);
  scheduler.Enqueue(paused);
  Step(scheduler);
  paused.paused = true;
  EXPECT_TRUE(Step(scheduler).empty());
  EXPECT_FALSE(paused.blocks.empty());
  Sequence other = OfLength(8);
  scheduler.Enqueue(other);
  EXPECT_NE(Find(Step(scheduler), other), nullptr);
  EXPECT_TRUE(paused.blocks.empty());
  paused.paused = false;
  scheduler.Remove(other);
  EXPECT_NE(Find(Step(scheduler), paused), nullptr);
}

TEST(Scheduler, PausedSequencesDoNotOccupyTheBatch) {
  BlockAllocator blocks(100, 4);
  Scheduler scheduler({.max_running = 1}, blocks);
  Sequence paused = OfLength(4);
  Sequence other = OfLength(4);
  scheduler.Enqueue(paused);
  Step(scheduler);
  paused.paused = true;
  scheduler.Enqueue(other);
  EXPECT_NE(Find(Step(scheduler), other), nullptr);
}

TEST(Scheduler, ScoringSequencesShareABoundedNumberOfRows) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({.score_rows = 10}, blocks);
  Sequence first = OfLength(30);
  Sequence second = OfLength(30);
  first.scoring = second.scoring = true;
  scheduler.Enqueue(first);
  scheduler.Enqueue(second);
  uint32_t rows = 0;
  for (const Scheduler::Slice& slice : Step(scheduler)) rows += slice.count;
  EXPECT_EQ(rows, 10u);
}

// Random arrivals, lengths, pauses and removals: blocks are never shared or lost, budgets hold, no
// token is skipped or run twice without a preemption, and everything ends.
TEST(Scheduler, InvariantsHoldUnderRandomLoad) {
  constexpr uint32_t kBlocks = 12;
  constexpr uint32_t kBlockTokens = 4;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    BlockAllocator blocks(kBlocks, kBlockTokens);
    const Scheduler::Limits limits = {
        .max_running = 5, .step_tokens = 9, .prefill_chunk = 6, .score_rows = 4};
    Scheduler scheduler(limits, blocks);
    std::map<Sequence*, size_t> target;  // tokens at which a live sequence is done
    std::vector<std::unique_ptr<Sequence>> sequences;
    int idle_steps = 0;
    for (int i = 0; i < 2000 && (i < 200 || !target.empty()); ++i) {
      if (i < 200 && random() % 3 == 0) {
        sequences.push_back(std::make_unique<Sequence>(OfLength(1 + random() % 20)));
        Sequence& added = *sequences.back();
        added.scoring = random() % 5 == 0;
        target[&added] = added.scoring ? added.tokens.size() : added.tokens.size() + random() % 20;
        scheduler.Enqueue(added);
      }
      for (auto& [sequence, unused] : target) sequence->paused = i < 200 && random() % 4 == 0;
      if (!target.empty() && i < 200 && random() % 10 == 0) {
        const auto victim = std::next(target.begin(), random() % target.size());
        scheduler.Remove(*victim->first);
        target.erase(victim);
      }
      std::map<Sequence*, uint32_t> cached;
      for (auto& [sequence, unused] : target) cached[sequence] = sequence->cached;
      const auto step = Step(scheduler);
      uint32_t tokens = 0;
      std::set<int32_t> used;
      size_t held = 0;
      for (const Scheduler::Slice& slice : step) {
        tokens += slice.count;
        ASSERT_FALSE(slice.sequence->paused);
        ASSERT_TRUE(slice.begin == cached[slice.sequence] || slice.begin == 0);
        ASSERT_GE(slice.sequence->blocks.size() * kBlockTokens, slice.begin + slice.count);
      }
      for (auto& [sequence, unused] : target) {
        used.insert(sequence->blocks.begin(), sequence->blocks.end());
        held += sequence->blocks.size();
      }
      ASSERT_LE(tokens, limits.step_tokens);
      ASSERT_EQ(used.size(), held) << "a block has two owners";
      ASSERT_EQ(blocks.used(), held);
      ASSERT_LE(scheduler.running(), limits.max_running);
      idle_steps = step.empty() ? idle_steps + 1 : 0;
      ASSERT_TRUE(i < 200 || idle_steps == 0) << "unpaused sequences must make progress";
      for (const Scheduler::Slice& slice : step) {
        Sequence* sequence = slice.sequence;
        const bool done = sequence->scoring ? sequence->remaining() == 0
                                            : sequence->tokens.size() > target[sequence];
        if (!done) continue;
        scheduler.Remove(*sequence);
        target.erase(sequence);
      }
    }
    EXPECT_TRUE(target.empty()) << "seed " << seed;
    EXPECT_EQ(blocks.used(), 0u);
  }
}

}  // namespace
}  // namespace quantloom
