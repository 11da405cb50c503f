#include "engine/scheduler.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace quantloom {
namespace {

// A sequence whose first token no other test sequence has: it shares nothing.
Sequence OfLength(size_t tokens) {
  static int32_t next_first_token = 1000;
  Sequence sequence;
  sequence.tokens.assign(tokens, 1);
  sequence.tokens[0] = next_first_token++;
  return sequence;
}

const Scheduler::Slice* Find(const std::vector<Scheduler::Slice>& step, const Sequence& sequence) {
  const auto slice = std::find_if(
      step.begin(), step.end(), [&](const Scheduler::Slice& s) { return s.sequence == &sequence; });
  return slice == step.end() ? nullptr : &*slice;
}

// Runs a step as a model would: every sequence whose last token ran gets one more.
std::vector<Scheduler::Slice> Step(Scheduler& scheduler) {
  const Scheduler::Step step = scheduler.NextStep();
  scheduler.Finished(step);
  for (const Scheduler::Slice& slice : step.slices) {
    if (slice.sequence->remaining() == 0 && !slice.sequence->scoring)
      slice.sequence->tokens.push_back(1);
  }
  return step.slices;
}

TEST(Scheduler, MixesDecodeTokensWithPrefillChunksWithinTheBudget) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({.max_running = 4, .step_tokens = 12, .prefill_chunk = 8}, blocks);
  Sequence decoding = OfLength(3);
  Sequence long_prompt = OfLength(20);
  Sequence other_prompt = OfLength(5);
  scheduler.Enqueue(decoding);
  EXPECT_EQ(Step(scheduler).size(), 1u);
  scheduler.Enqueue(long_prompt);
  scheduler.Enqueue(other_prompt);

  const auto step = Step(scheduler);
  ASSERT_EQ(step.size(), 3u);
  EXPECT_EQ(Find(step, decoding)->count, 1u);
  EXPECT_EQ(Find(step, other_prompt)->count, 5u) << "the shorter first";
  EXPECT_EQ(Find(step, long_prompt)->count, 3u) << "what it leaves of the chunk";
  EXPECT_EQ(Find(Step(scheduler), long_prompt)->begin, 3u);
}

TEST(Scheduler, APromptThatTwoChunksWouldEndIsRunAtOnce) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({.step_tokens = 36, .prefill_chunk = 16}, blocks);
  Sequence brief = OfLength(32);
  Sequence longer = OfLength(40);
  scheduler.Enqueue(brief);
  scheduler.Enqueue(longer);
  auto step = Step(scheduler);
  ASSERT_EQ(step.size(), 1u) << "what the first takes, others do not get";
  EXPECT_EQ(Find(step, brief)->count, 32u);
  step = Step(scheduler);
  EXPECT_EQ(Find(step, longer)->count, 16u) << "24 would be left: more than a chunk";
  step = Step(scheduler);
  EXPECT_EQ(Find(step, longer)->count, 24u);
}

TEST(Scheduler, APromptIsRunAtOnceOnlyWhereTheStepHasRoom) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({.step_tokens = 24, .prefill_chunk = 16}, blocks);
  Sequence prompt = OfLength(30);
  scheduler.Enqueue(prompt);
  EXPECT_EQ(Find(Step(scheduler), prompt)->count, 16u);
  EXPECT_EQ(Find(Step(scheduler), prompt)->count, 14u);
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
  EXPECT_EQ(Find(step, young)->begin, 4u) << "one of its blocks was not needed by the other";
  EXPECT_EQ(Find(step, young)->count, tokens - 4);
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

// Runs steps until all of the sequence's tokens have run once; how many ran.
uint32_t RunPrompt(Scheduler& scheduler, const Sequence& sequence) {
  const size_t length = sequence.tokens.size();
  uint32_t ran = 0;
  while (sequence.tokens.size() == length) {
    for (const Scheduler::Slice& slice : Step(scheduler)) {
      if (slice.sequence == &sequence) ran += slice.count;
    }
  }
  return ran;
}

Sequence WithPrefix(size_t prefix, size_t tokens) {
  Sequence sequence = OfLength(tokens);
  const int32_t own = sequence.tokens[0];
  std::fill(sequence.tokens.begin(), sequence.tokens.begin() + prefix, 7);
  std::fill(sequence.tokens.begin() + prefix, sequence.tokens.end(), own);
  return sequence;
}

TEST(Scheduler, APrefixIsComputedOnceByRequestsOneAfterTheOther) {
  BlockAllocator blocks(200, 16);
  Scheduler scheduler({}, blocks);
  Sequence first = WithPrefix(1000, 1010);
  Sequence second = WithPrefix(1000, 1020);
  scheduler.Enqueue(first);
  EXPECT_EQ(RunPrompt(scheduler, first), 1010u);
  scheduler.Enqueue(second);
  EXPECT_EQ(RunPrompt(scheduler, second), 20u) << "while the first runs, 8 tokens by copy";
  scheduler.Remove(first);
  scheduler.Remove(second);
  EXPECT_EQ(blocks.used(), 0u);
  Sequence third = WithPrefix(1000, 1001);
  scheduler.Enqueue(third);
  EXPECT_EQ(RunPrompt(scheduler, third), 1u) << "when the others are gone";
}

TEST(Scheduler, APrefixIsComputedOnceByRequestsThatComeTogether) {
  BlockAllocator blocks(400, 16);
  Scheduler scheduler({.step_tokens = 512, .prefill_chunk = 128}, blocks);
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < 5; ++i) sequences.push_back(WithPrefix(1000, 1005 + i));
  for (Sequence& sequence : sequences) scheduler.Enqueue(sequence);
  uint32_t ran = 0;
  while (std::any_of(sequences.begin(), sequences.end(),
                     [](const Sequence& sequence) { return sequence.remaining() > 1; })) {
    for (const Scheduler::Slice& slice : Step(scheduler)) {
      if (slice.count > 1) ran += slice.count;
    }
  }
  // 62 blocks once; the 63rd, whose tokens differ at its end, by each.
  uint32_t tails = 0;
  for (size_t i = 0; i < 5; ++i) tails += 1005 + static_cast<uint32_t>(i) - 992;
  EXPECT_LE(ran, 992 + tails);
  std::set<int32_t> first_blocks;
  for (const Sequence& sequence : sequences) first_blocks.insert(sequence.blocks[0]);
  EXPECT_EQ(first_blocks.size(), 1u);
}

TEST(Scheduler, AFollowerComputesForItselfWhenItsLeaderIsGone) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({.prefill_chunk = 32}, blocks);
  Sequence leader = WithPrefix(200, 210);
  Sequence follower = WithPrefix(200, 220);
  scheduler.Enqueue(leader);
  scheduler.Enqueue(follower);
  EXPECT_EQ(Find(Step(scheduler), follower), nullptr);
  scheduler.Remove(leader);
  EXPECT_EQ(RunPrompt(scheduler, follower), 220u - 32u);
}

TEST(Scheduler, SaltsAndOptOutKeepPrefixesApart) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({}, blocks);
  Sequence first = WithPrefix(64, 65);
  first.salt = std::string("a");
  Sequence other_salt = WithPrefix(64, 65);
  other_salt.salt = std::string("b");
  Sequence same_salt = WithPrefix(64, 65);
  same_salt.salt = std::string("a");
  Sequence unshared = WithPrefix(64, 65);
  unshared.salt = std::string("a");
  unshared.share_prefix = false;
  for (Sequence* sequence : {&first, &other_salt, &same_salt, &unshared}) {
    const uint32_t expected = sequence == &same_salt ? 1 : 65;
    scheduler.Enqueue(*sequence);
    EXPECT_EQ(RunPrompt(scheduler, *sequence), expected);
  }
}

TEST(Scheduler, APreemptedSequenceFindsWhatItHadComputed) {
  BlockAllocator blocks(8, 4);
  Scheduler scheduler({}, blocks);
  Sequence paused = OfLength(15);
  scheduler.Enqueue(paused);
  Step(scheduler);
  paused.paused = true;
  Sequence other = OfLength(24);
  scheduler.Enqueue(other);
  Step(scheduler);
  ASSERT_TRUE(paused.blocks.empty());
  scheduler.Remove(other);
  paused.paused = false;
  const auto step = Step(scheduler);
  ASSERT_NE(Find(step, paused), nullptr);
  EXPECT_EQ(Find(step, paused)->begin, 8u) << "the last two blocks were evicted";
}

TEST(Scheduler, AScoringSequenceSkipsNoPositionWhoseLogitsItWants) {
  BlockAllocator blocks(100, 16);
  Scheduler scheduler({.prefill_chunk = 512, .score_rows = 40}, blocks);
  Sequence generating = WithPrefix(64, 70);
  scheduler.Enqueue(generating);
  Step(scheduler);
  Sequence scoring = WithPrefix(64, 70);
  scoring.scoring = true;
  scheduler.Enqueue(scoring);
  auto step = Step(scheduler);
  EXPECT_EQ(Find(step, scoring)->begin, 0u);
  EXPECT_EQ(Find(step, scoring)->count, 32u);
  // Recomputed after a preemption, it may skip those that it has.
  scoring.paused = true;
  Sequence large = OfLength(1500);
  scheduler.Enqueue(large);
  Step(scheduler);
  ASSERT_TRUE(scoring.blocks.empty());
  scheduler.Remove(large);
  scoring.paused = false;
  step = Step(scheduler);
  EXPECT_EQ(Find(step, scoring)->begin, 32u);
}

}  // namespace
}  // namespace quantloom
