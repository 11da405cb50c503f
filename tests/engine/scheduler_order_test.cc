// Who comes first: priorities, clients, ages, lengths.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "gtest/gtest.h"

namespace quantloom {
namespace {

// A scheduler whose sequences end after a number of generated tokens.
class Order : public ::testing::Test {
 protected:
  void Start(const Scheduler::Limits& limits, uint32_t block_count = 1000) {
    blocks_ = std::make_unique<BlockAllocator>(block_count, 16);
    scheduler_ = std::make_unique<Scheduler>(limits, *blocks_);
  }
  struct Spec {
    size_t prompt = 16;
    size_t generate = 1;
    Priority priority = Priority::kNormal;
    const char* client = "";
  };
  // Its number: the order of arrival.
  size_t Add(const Spec& spec) {
    Sequence& sequence = sequences_.emplace_back();
    sequence.tokens.assign(spec.prompt, static_cast<int32_t>(sequences_.size()));
    sequence.standing = {.priority = spec.priority, .client = std::string(spec.client)};
    generate_.push_back(spec.generate);
    prompts_.push_back(spec.prompt);
    scheduler_->Enqueue(sequence);
    return sequences_.size() - 1;
  }
  // Runs a step; the numbers of the sequences in it.
  std::vector<size_t> Step() {
    const Scheduler::Step step = scheduler_->NextStep();
    scheduler_->Finished(step);
    std::vector<size_t> ran;
    for (const Scheduler::Slice& slice : step.slices) {
      Sequence& sequence = *slice.sequence;
      const size_t i =
          static_cast<size_t>(std::find_if(sequences_.begin(), sequences_.end(),
                                           [&](const Sequence& s) { return &s == &sequence; }) -
                              sequences_.begin());
      ran.push_back(i);
      served_[sequence.standing.client] += slice.count;
      if (sequence.remaining() > 0) continue;
      sequence.tokens.push_back(1);
      if (sequence.tokens.size() < prompts_[i] + generate_[i]) continue;
      scheduler_->Remove(sequence);
      ended_.push_back(i);
    }
    return ran;
  }
  void RunUntilEnded(size_t count) {
    for (int step = 0; ended_.size() < count; ++step) {
      ASSERT_LT(step, 100000);
      ASSERT_FALSE(Step().empty());
    }
  }
  static bool Contains(const std::vector<size_t>& list, size_t item) {
    return std::find(list.begin(), list.end(), item) != list.end();
  }

  std::unique_ptr<BlockAllocator> blocks_;
  std::unique_ptr<Scheduler> scheduler_;
  std::deque<Sequence> sequences_;
  std::vector<size_t> generate_;
  std::vector<size_t> prompts_;
  std::vector<size_t> ended_;
  std::map<std::string, uint64_t> served_;
};

TEST_F(Order, HigherPrioritiesAreAdmittedFirst) {
  Start({.max_running = 1});
  const size_t running = Add({.priority = Priority::kHigh});
  Step();
  const size_t low = Add({.priority = Priority::kLow});
  const size_t normal = Add({});
  const size_t high = Add({.priority = Priority::kHigh});
  RunUntilEnded(4);
  EXPECT_EQ(ended_, (std::vector<size_t>{running, high, normal, low}));
}

TEST_F(Order, AHigherPriorityPreemptsALowerOneAndNobodyElseDoes) {
  Start({.max_running = 2});
  const size_t low = Add({.generate = 50, .priority = Priority::kLow});
  const size_t normal = Add({.generate = 50});
  Step();
  const size_t equal = Add({.priority = Priority::kLow});
  EXPECT_FALSE(Contains(Step(), equal));
  const size_t high = Add({.generate = 5, .priority = Priority::kHigh});
  const std::vector<size_t> step = Step();
  EXPECT_TRUE(Contains(step, high));
  EXPECT_TRUE(Contains(step, normal));
  EXPECT_FALSE(Contains(step, low));
  RunUntilEnded(4);
  EXPECT_EQ(ended_, (std::vector<size_t>{high, normal, equal, low}))
      << "low was held up, equal is short";
}

TEST_F(Order, AHigherPriorityTakesTheBlocksOfLowerOnes) {
  Start({.max_running = 8}, /*block_count=*/8);
  const size_t first = Add({.prompt = 60, .generate = 60, .priority = Priority::kLow});
  Step();
  const size_t high = Add({.prompt = 100, .priority = Priority::kHigh});
  std::vector<size_t> step = Step();
  EXPECT_TRUE(Contains(step, high));
  EXPECT_FALSE(Contains(step, first));
  RunUntilEnded(2);
  EXPECT_EQ(ended_, (std::vector<size_t>{high, first}));
}

TEST_F(Order, NobodyIsPreemptedInVain) {
  Start({.max_running = 8, .prefill_chunk = 512}, /*block_count=*/8);
  Add({.prompt = 60, .generate = 40, .priority = Priority::kHigh});
  const size_t low = Add({.prompt = 30, .generate = 10, .priority = Priority::kLow});
  Step();
  Add({.prompt = 120, .priority = Priority::kHigh});
  EXPECT_TRUE(Contains(Step(), low)) << "its blocks would not be enough";
  EXPECT_EQ(scheduler_->preemptions(), 0u);
}

TEST_F(Order, ALowPriorityHasItsTurnHoweverManyHighOnesCome) {
  Start({.max_running = 1, .turn = 4});
  const size_t first = Add({.priority = Priority::kHigh});
  const size_t low = Add({.generate = 10, .priority = Priority::kLow});
  const size_t normal = Add({.generate = 10});
  while (!Contains(ended_, low) || !Contains(ended_, normal)) {
    if (scheduler_->waiting() < 5) Add({.priority = Priority::kHigh});
    Step();
    ASSERT_LT(ended_.size(), 12u) << "of each five admissions, one is the lower priorities'";
  }
  EXPECT_EQ(ended_[0], first);
  EXPECT_EQ(scheduler_->preemptions(), 0u) << "who has had its turn keeps its place";
}

TEST_F(Order, ClientsShareEvenlyWhateverTheySend) {
  Start({.max_running = 4, .prefill_chunk = 32});
  // One client sends many long requests, another few short ones, always.
  std::map<std::string, uint64_t> at_start;
  for (int i = 0; i < 3000; ++i) {
    size_t waiting_of[2] = {0, 0};
    for (size_t s = 0; s < sequences_.size(); ++s) {
      if (!Contains(ended_, s)) ++waiting_of[sequences_[s].standing.client == "modest"];
    }
    while (waiting_of[0]++ < 20) Add({.prompt = 300, .generate = 20, .client = "greedy"});
    while (waiting_of[1]++ < 4) Add({.prompt = 40, .generate = 40, .client = "modest"});
    Step();
    if (i == 500) at_start = served_;
  }
  const auto greedy = static_cast<double>(served_["greedy"] - at_start["greedy"]);
  const auto modest = static_cast<double>(served_["modest"] - at_start["modest"]);
  EXPECT_NEAR(greedy / modest, 1, 0.25);
}

TEST_F(Order, AShortPromptDoesNotWaitForALongOne) {
  Start({.prefill_chunk = 64});
  for (int i = 0; i < 4; ++i) Add({.prompt = 2000});
  Step();
  const size_t brief = Add({.prompt = 40});
  const std::vector<size_t> step = Step();
  EXPECT_EQ(step[0], brief);
  EXPECT_TRUE(Contains(ended_, brief)) << "its first token comes from this step";
}

TEST_F(Order, ALongPromptIsNotPassedOverForEver) {
  Start({.prefill_chunk = 64, .patience = 4});
  const size_t long_prompt = Add({.prompt = 640});
  int steps = 0;
  while (!Contains(ended_, long_prompt)) {
    while (scheduler_->running() + scheduler_->waiting() < 6) Add({.prompt = 64});
    Step();
    ASSERT_LT(++steps, 100);
  }
  EXPECT_GT(steps, 30) << "short prompts went first meanwhile";
}

TEST_F(Order, APreemptedSequenceIsResumedBeforeNewOnesBegin) {
  Start({.max_running = 1});
  const size_t preempted = Add({.generate = 10, .client = "served"});
  Step();
  Step();
  const size_t high = Add({.priority = Priority::kHigh, .client = "other"});
  const size_t fresh = Add({.client = "new"});
  RunUntilEnded(3);
  EXPECT_EQ(ended_, (std::vector<size_t>{high, preempted, fresh}));
}

}  // namespace
}  // namespace quantloom
