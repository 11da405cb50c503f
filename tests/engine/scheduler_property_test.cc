// Random arrivals, cancellations, pauses and prefixes over caches so small that blocks are always
// short. The model is simulated: a cache slot holds the history of the tokens that were computed
// for it, so that every read can be checked to find what the sequence's own tokens would have put
// there, wherever the block came from.
#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "gtest/gtest.h"

namespace quantloom {
namespace {

constexpr uint32_t kBlockTokens = 4;

// What a slot of the cache holds: the tokens up to its position.
using History = std::vector<int32_t>;

class SimulatedModel {
 public:
  explicit SimulatedModel(BlockAllocator& blocks)
      : blocks_(blocks), slots_(blocks.total(), std::vector<History>(kBlockTokens)) {}

  void Run(const Scheduler::Step& step) {
    for (const BlockCopy& copy : step.copies) {
      ASSERT_EQ(blocks_.users(copy.to), 1u);
      slots_[copy.to] = slots_[copy.from];
    }
    for (const Scheduler::Slice& slice : step.slices) Run(slice);
  }

 private:
  void Run(const Scheduler::Slice& slice) {
    const Sequence& sequence = *slice.sequence;
    ASSERT_GT(slice.count, 0u);
    ASSERT_LE(slice.begin + slice.count, sequence.tokens.size());
    History history;
    for (uint32_t p = 0; p < slice.begin + slice.count; ++p) {
      history.push_back(sequence.tokens[p]);
      const int32_t block = sequence.blocks.at(p / kBlockTokens);
      History& slot = slots_[block][p % kBlockTokens];
      if (p < slice.begin) {
        ASSERT_EQ(slot, history) << "position " << p << " holds another prefix";
      } else {
        ASSERT_EQ(blocks_.users(block), 1u) << "a shared block is written";
        slot = history;
      }
    }
  }

  BlockAllocator& blocks_;
  std::vector<std::vector<History>> slots_;  // [block][slot]
};

uint64_t FewValues(uint64_t, absl::Span<const int32_t> tokens) { return tokens.size() % 2; }

class Schedule {
 public:
  Schedule(uint32_t seed, uint32_t block_count)
      : random_(seed),
        blocks_(block_count, kBlockTokens, seed % 2 == 0 ? HashContent : FewValues),
        scheduler_(kLimits, blocks_),
        model_(blocks_) {}

  void Run() {
    int idle_steps = 0;
    for (int i = 0; i < 3000 && (i < 200 || !live_.empty()); ++i) {
      if (i < 200) Disturb();
      if (i == 200) {
        for (auto& [sequence, unused] : live_) sequence->paused = false;
      }
      const Scheduler::Step step = scheduler_.NextStep();
      CheckBudget(step);
      model_.Run(step);
      if (::testing::Test::HasFatalFailure()) return;
      scheduler_.Finished(step);
      CheckBlocks();
      idle_steps = step.slices.empty() ? idle_steps + 1 : 0;
      ASSERT_TRUE(i < 200 || idle_steps == 0) << "unpaused sequences must make progress";
      for (const Scheduler::Slice& slice : step.slices) Extend(*slice.sequence);
    }
    EXPECT_TRUE(live_.empty()) << "a sequence never ends";
    EXPECT_EQ(blocks_.used(), 0u);
  }
  uint64_t preemptions() const { return scheduler_.preemptions(); }
  uint64_t skipped() const { return skipped_; }

 private:
  static constexpr Scheduler::Limits kLimits = {.max_running = 5,
                                                .step_tokens = 15,
                                                .prefill_chunk = 4,
                                                .score_rows = 4,
                                                .turn = 2,
                                                .patience = 3};

  // Tokens from an alphabet of two, so that prefixes often agree.
  int32_t RandomToken() { return static_cast<int32_t>(random_() % 16 == 0); }

  void Disturb() {
    if (random_() % 3 == 0) Add();
    for (auto& [sequence, unused] : live_) sequence->paused = random_() % 4 == 0;
    if (!live_.empty() && random_() % 10 == 0) {
      End(*std::next(live_.begin(), static_cast<std::ptrdiff_t>(random_() % live_.size()))->first);
    }
  }

  void Add() {
    sequences_.push_back(std::make_unique<Sequence>());
    Sequence& added = *sequences_.back();
    added.tokens.resize(1 + random_() % 20);
    std::generate(added.tokens.begin(), added.tokens.end(), [this] { return RandomToken(); });
    added.scoring = random_() % 5 == 0;
    added.share_prefix = random_() % 8 != 0;
    if (random_() % 4 == 0) added.salt = std::string("salt");
    added.standing.priority = static_cast<Priority>(random_() % 3);
    added.standing.client = std::to_string(random_() % 3);
    live_[&added] = {.target = added.tokens.size() + (added.scoring ? 0 : random_() % 20)};
    scheduler_.Enqueue(added);
  }

  void End(Sequence& sequence) {
    scheduler_.Remove(sequence);
    ASSERT_TRUE(sequence.blocks.empty());
    live_.erase(&sequence);
  }

  // What the owner of a sequence does after a step.
  void Extend(Sequence& sequence) {
    if (sequence.remaining() > 0) return;
    if (sequence.scoring || sequence.tokens.size() >= live_[&sequence].target) {
      return End(sequence);
    }
    sequence.tokens.push_back(RandomToken());
  }

  void CheckBudget(const Scheduler::Step& step) {
    uint32_t tokens = 0;
    for (const Scheduler::Slice& slice : step.slices) {
      tokens += slice.count;
      ASSERT_FALSE(slice.sequence->paused);
      Live& live = live_.at(slice.sequence);
      ASSERT_LE(slice.begin, slice.sequence->cached);
      // Scoring sequences see every position; of the others, positions found are not run.
      if (slice.sequence->scoring) {
        ASSERT_LE(slice.begin, live.ran);
      } else if (slice.begin > live.ran) {
        ASSERT_TRUE(slice.sequence->share_prefix);
        skipped_ += slice.begin - live.ran;
      }
      live.ran = std::max(live.ran, slice.begin + slice.count);
    }
    ASSERT_LE(tokens, kLimits.step_rows());
    ASSERT_LE(scheduler_.running(), kLimits.max_running);
  }

  // Reference counts are what the tables say.
  void CheckBlocks() {
    std::map<int32_t, uint32_t> users;
    for (auto& [sequence, unused] : live_) {
      for (const int32_t block : sequence->blocks) ++users[block];
    }
    for (uint32_t block = 0; block < blocks_.total(); ++block) {
      ASSERT_EQ(blocks_.users(static_cast<int32_t>(block)), users[static_cast<int32_t>(block)]);
    }
    std::erase_if(users, [](const auto& entry) { return entry.second == 0; });
    ASSERT_EQ(blocks_.used(), users.size());
    ASSERT_EQ(blocks_.used() + blocks_.available(), blocks_.total());
    ASSERT_LE(blocks_.cached(), blocks_.available());
  }

  struct Live {
    size_t target;     // tokens at which it is done
    uint32_t ran = 0;  // positions that have run or were found
  };
  std::mt19937 random_;
  BlockAllocator blocks_;
  Scheduler scheduler_;
  SimulatedModel model_;
  std::map<Sequence*, Live> live_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  uint64_t skipped_ = 0;
};

TEST(SchedulerProperty, RandomSchedulesReadOnlyWhatTheirOwnTokensWouldHaveWritten) {
  uint64_t preemptions = 0;
  uint64_t skipped = 0;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Schedule schedule(seed, /*block_count=*/11 + seed % 8);
    schedule.Run();
    if (HasFailure()) return;
    preemptions += schedule.preemptions();
    skipped += schedule.skipped();
  }
  EXPECT_GT(preemptions, 1000u) << "the caches are not tight enough to test anything";
  EXPECT_GT(skipped, 1000u) << "nothing was shared";
}

}  // namespace
}  // namespace quantloom
