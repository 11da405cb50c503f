// What happens to requests beside giving tokens: cancelled, paused, late, queued, drained.
#include <algorithm>
#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/generation.h"
#include "gtest/gtest.h"
#include "tests/engine/generation_fixture.h"

namespace quantloom {
namespace {

const GenerationEngine::ScoreOptions kNoOptions;

TEST_P(Generation, CancelEndsARequestWithinOneStepAndFreesItsBlocks) {
  const auto engine = Create();
  Collector cancelled;
  Collector neighbour;
  std::promise<std::shared_ptr<GenerationStream>> stream;
  int tokens = 0;
  auto submitted = engine->Submit(Request(30, 1, 0), [&](const GenerationEvent& event) {
    if (event.token && ++tokens == 3) {
      auto self = stream.get_future().get();
      self->Cancel();
      self->Cancel();
    }
    cancelled.callback()(event);
  });
  ASSERT_TRUE(submitted.ok()) << submitted.status();
  ASSERT_TRUE(engine->Submit(Request(30, 2, 50), neighbour.callback()).ok());
  stream.set_value(*submitted);
  const Outcome outcome = cancelled.Wait();
  EXPECT_TRUE(absl::IsCancelled(outcome.last.status)) << outcome.last.status;
  EXPECT_EQ(outcome.tokens.size(), 3u);
  EXPECT_EQ(outcome.last.generated_tokens, 3u);
  EXPECT_EQ(neighbour.Wait().tokens, GreedyByRecomputation(Prompt(30, 2), 50));
  EXPECT_EQ(engine->stats().kv_blocks_used, 0u);
}

TEST_P(Generation, APausedRequestIsNotScheduledUntilItIsResumed) {
  const auto engine = Create();
  PausedRequest paused(*engine, Request(30, 1, 20));
  Run(*engine, Request(5, 2, 30));  // thirty more steps
  EXPECT_EQ(paused.collector().tokens(), 1u);
  EXPECT_GT(engine->stats().kv_blocks_used, 0u);
  paused.stream().SetPaused(false);
  EXPECT_EQ(paused.collector().Wait().tokens, GreedyByRecomputation(Prompt(30, 1), 20));
}

TEST_P(Generation, APausedRequestCanBeCancelled) {
  const auto engine = Create();
  PausedRequest paused(*engine, Request(30, 1, 20));
  paused.stream().Cancel();
  EXPECT_TRUE(absl::IsCancelled(paused.collector().Wait().last.status));
  EXPECT_EQ(engine->stats().kv_blocks_used, 0u);
}

TEST_P(Generation, ADeadlineEndsARequestInProgressAndOneThatWaits) {
  const auto engine = Create();
  GenerationRequest request = Request(30, 1, 20);
  request.deadline = absl::Now() + absl::Milliseconds(100);
  PausedRequest paused(*engine, request);
  const Outcome outcome = paused.collector().Wait();
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.last.status)) << outcome.last.status;
  EXPECT_GE(absl::Now(), request.deadline);
  EXPECT_EQ(engine->stats().kv_blocks_used, 0u);

  request.deadline = absl::Now() - absl::Seconds(1);
  const Outcome late = Run(*engine, request);
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.last.status));
  EXPECT_TRUE(late.tokens.empty());
}

TEST_P(Generation, APausedRequestGivesWayToOthersAndLosesNothing) {
  const auto engine = Create({.max_running = 1, .step_tokens = 64});
  PausedRequest paused(*engine, Request(30, 1, 20));
  EXPECT_EQ(Run(*engine, Request(5, 2, 10)).tokens, GreedyByRecomputation(Prompt(5, 2), 10));
  EXPECT_EQ(engine->stats().preemptions, 1u);
  paused.stream().SetPaused(false);
  EXPECT_EQ(paused.collector().Wait().tokens, GreedyByRecomputation(Prompt(30, 1), 20));
}

TEST_P(Generation, TheQueueIsBounded) {
  const auto engine = Create({.max_running = 1, .max_waiting = 1, .step_tokens = 64});
  PausedRequest running(*engine, Request(5, 1, 5));
  PausedRequest waiting(*engine, Request(5, 2, 5));
  const auto refused = engine->Submit(Request(5, 3, 5), [](const GenerationEvent&) {
    ADD_FAILURE() << "a refused request has no events";
  });
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_TRUE(absl::IsResourceExhausted(engine->Score({1, 2}, kNoOptions).status()));
  EXPECT_EQ(engine->stats().requests_running + engine->stats().requests_waiting, 2u);
  running.stream().SetPaused(false);
  waiting.stream().SetPaused(false);
  running.collector().Wait();
  waiting.collector().Wait();
}

TEST_P(Generation, OfAThousandStreamsEveryOneEndsWithItsTextOrIsRefused) {
  constexpr uint32_t kClients = 10;
  const auto engine = Create({.max_running = 16, .max_waiting = 64, .kv_tokens = 600});
  std::vector<std::vector<int32_t>> expected;
  for (uint32_t kind = 0; kind < 5; ++kind)
    expected.push_back(GreedyByRecomputation(Prompt(5 + 10 * kind, kind), 8));
  std::atomic<int> served = 0;
  std::atomic<int> refused = 0;
  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      std::vector<Collector> collectors(100);
      std::vector<size_t> accepted;
      for (size_t i = 0; i < collectors.size(); ++i) {
        GenerationRequest request = Request(5 + 10 * (i % 5), i % 5, 8);
        request.standing.client = std::to_string(client);
        const auto stream = engine->Submit(request, collectors[i].callback());
        if (stream.ok()) accepted.push_back(i);
        if (!stream.ok()) {
          EXPECT_TRUE(absl::IsResourceExhausted(stream.status())) << stream.status();
          ++refused;
        }
      }
      for (const size_t i : accepted) EXPECT_EQ(collectors[i].Wait().tokens, expected[i % 5]);
      served += static_cast<int>(accepted.size());
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(served + refused, 1000);
  EXPECT_GE(served, 80) << "as many as run and wait at once";
  EXPECT_EQ(engine->stats().kv_blocks_used, 0u);
}

TEST_P(Generation, OneClientCannotFillTheQueue) {
  const auto engine = Create({.max_running = 2, .max_client_requests = 2});
  GenerationRequest request = Request(5, 1, 5);
  request.standing.client = std::string("greedy");
  PausedRequest first(*engine, request);
  PausedRequest second(*engine, request);
  EXPECT_TRUE(
      absl::IsResourceExhausted(engine->Submit(request, [](const GenerationEvent&) {}).status()));
  GenerationEngine::ScoreOptions options;
  options.standing = request.standing;
  EXPECT_TRUE(absl::IsResourceExhausted(engine->Score({1, 2}, options).status()));
  request.standing.client = std::string("modest");
  EXPECT_EQ(Run(*engine, request).tokens.size(), 5u);
  request.standing.client = std::string("greedy");
  first.stream().Cancel();
  first.collector().Wait();
  EXPECT_EQ(Run(*engine, request).tokens.size(), 5u) << "one has ended";
  second.stream().Cancel();
  second.collector().Wait();
}

TEST_P(Generation, AHighPriorityTakesThePlaceOfALowOneWhichLosesNothing) {
  const auto engine = Create({.max_running = 1, .step_tokens = 64});
  GenerationRequest low = Request(30, 1, 100);
  low.standing.priority = Priority::kLow;
  GenerationRequest high = Request(5, 2, 10);
  high.standing.priority = Priority::kHigh;
  Collector of_low;
  Collector of_high;
  size_t tokens_of_low = 0;  // when the high one has ended
  const auto collect_high = [&](const GenerationEvent& event) {
    if (event.last()) tokens_of_low = of_low.tokens();
    of_high.callback()(event);
  };
  const auto submitted = engine->Submit(low, [&](const GenerationEvent& event) {
    of_low.callback()(event);
    if (of_low.tokens() != 5) return;
    EXPECT_TRUE(engine->Submit(high, collect_high).ok());
  });
  ASSERT_TRUE(submitted.ok());
  EXPECT_EQ(of_low.Wait().tokens, GreedyByRecomputation(Prompt(30, 1), 100));
  EXPECT_EQ(of_high.Wait().tokens, GreedyByRecomputation(Prompt(5, 2), 10));
  EXPECT_EQ(tokens_of_low, 5u);
  EXPECT_EQ(engine->stats().preemptions, 1u);
}

TEST_P(Generation, TheEndOfARequestMakesRoomForTheNext) {
  const auto engine = Create({.max_running = 1, .max_waiting = 0});
  // Sent with the last event in hand, each is the earliest that its client can send.
  constexpr int kRequests = 5;
  std::promise<bool> all_admitted;
  int submitted = 0;
  const std::function<void()> submit = [&] {
    ++submitted;
    const auto stream = engine->Submit(Request(3, 0, 2), [&](const GenerationEvent& event) {
      if (!event.last()) return;
      submitted == kRequests ? all_admitted.set_value(true) : submit();
    });
    if (!stream.ok()) all_admitted.set_value(false);
  };
  submit();
  EXPECT_TRUE(all_admitted.get_future().get());
  engine->Drain(absl::InfiniteFuture());
}

TEST_P(Generation, ScoreEndsWhenItsCallerIsGoneOrLate) {
  const auto engine = Create();
  GenerationEngine::ScoreOptions late;
  late.deadline = absl::Now() - absl::Seconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(engine->Score(Prompt(50, 1), late).status()));
  // Blocked by a full batch of one stream that never gives way, so that it is still waiting when
  // its caller leaves.
  const auto narrow = Create({.max_running = 1, .step_tokens = 64});
  GenerationRequest endless = Request(5, 1, 400);
  std::promise<void> release;
  Collector collector;
  bool held = false;
  ASSERT_TRUE(narrow
                  ->Submit(endless,
                           [&](const GenerationEvent& event) {
                             if (!held) release.get_future().wait();
                             held = true;
                             collector.callback()(event);
                           })
                  .ok());
  std::thread releaser([&] {
    absl::SleepFor(absl::Milliseconds(50));
    release.set_value();
  });
  GenerationEngine::ScoreOptions abandoned;
  abandoned.cancelled = [] { return true; };
  const auto score = narrow->Score(Prompt(50, 1), abandoned);
  EXPECT_TRUE(absl::IsCancelled(score.status())) << score.status();
  releaser.join();
  collector.Wait();
}

TEST_P(Generation, DrainLetsRequestsFinishAndAdmitsNoMore) {
  const auto engine = Create();
  Collector collector;
  ASSERT_TRUE(engine->Submit(Request(30, 1, 40), collector.callback()).ok());
  engine->Drain(absl::InfiniteFuture());
  EXPECT_EQ(collector.Wait().last.finish, FinishReason::kLength);
  const auto refused = engine->Submit(Request(5, 3, 5), [](const GenerationEvent&) {});
  EXPECT_TRUE(absl::IsUnavailable(refused.status()));
  EXPECT_TRUE(absl::IsUnavailable(engine->Score({1, 2}, kNoOptions).status()));
}

TEST_P(Generation, DrainEndsWhatIsLeftAtItsDeadline) {
  const auto engine = Create();
  PausedRequest paused(*engine, Request(30, 1, 20));
  engine->Drain(absl::Now() + absl::Milliseconds(20));
  EXPECT_TRUE(absl::IsUnavailable(paused.collector().Wait().last.status));
  EXPECT_EQ(engine->stats().kv_blocks_used, 0u);
}

TEST_P(Generation, DestructionEndsRequestsAndStreamsMayOutliveTheEngine) {
  auto engine = Create();
  PausedRequest paused(*engine, Request(30, 1, 20));
  engine.reset();
  EXPECT_TRUE(absl::IsUnavailable(paused.collector().Wait().last.status));
  paused.stream().SetPaused(false);
  paused.stream().Cancel();
}

// Two hundred streams of all priorities and of several clients over a cache that holds a few, many
// of them with the same beginning; half are cancelled, before they run or at any token. One more,
// paused since its first token, must give way to them and still end as if alone.
TEST_P(Generation, CancellingHalfOfManyStreamsFreesTheirBlocksAndChangesNoOther) {
  constexpr size_t kStreams = 200;
  constexpr uint32_t kKinds = 8;
  std::vector<GenerationRequest> kinds;
  std::vector<std::vector<int32_t>> expected;
  for (uint32_t kind = 0; kind < kKinds; ++kind) {
    GenerationRequest& request = kinds.emplace_back(Request(4 + 7 * kind, kind, 30));
    const std::vector<int32_t> shared = Prompt(kind % 2 == 0 ? 70 : 0, 99);
    request.prompt.insert(request.prompt.begin(), shared.begin(), shared.end());
    expected.push_back(GreedyByRecomputation(request.prompt, 30));
  }
  const auto engine = Create({.max_running = 12, .max_waiting = kStreams, .kv_tokens = 500});
  PausedRequest paused(*engine, kinds[0]);
  std::mt19937 random(5);
  std::vector<Collector> collectors(kStreams);
  std::vector<std::shared_ptr<GenerationStream>> streams;
  for (size_t i = 0; i < kStreams; ++i) {
    GenerationRequest request = kinds[i % kKinds];
    request.standing.priority = static_cast<Priority>(random() % 3);
    request.standing.client = std::to_string(random() % 5);
    request.share_prefix = random() % 10 != 0;
    auto stream = engine->Submit(request, collectors[i].callback());
    ASSERT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*std::move(stream));
  }
  std::vector<bool> cancelled(kStreams);
  for (size_t i = 0; i < kStreams; i += 2) {
    const size_t victim = i + random() % 2;
    cancelled[victim] = true;
    collectors[victim].WaitForTokens(random() % 3 == 0 ? 0 : random() % 30);
    streams[victim]->Cancel();
  }
  for (size_t i = 0; i < kStreams; ++i) {
    const Outcome outcome = collectors[i].Wait();
    const std::vector<int32_t>& whole = expected[i % kKinds];
    if (outcome.last.status.ok()) {
      EXPECT_EQ(outcome.tokens, whole) << i;
    } else {
      EXPECT_TRUE(cancelled[i]) << i << ": " << outcome.last.status;
      EXPECT_TRUE(std::equal(outcome.tokens.begin(), outcome.tokens.end(), whole.begin())) << i;
    }
  }
  EXPECT_GT(engine->stats().preemptions, 0u);
  paused.stream().SetPaused(false);
  EXPECT_EQ(paused.collector().Wait().tokens, expected[0]);
  EXPECT_EQ(engine->stats().kv_blocks_used, 0u);
  EXPECT_EQ(engine->stats().requests_running + engine->stats().requests_waiting, 0u);
  EXPECT_GT(engine->stats().prefix_hit_tokens, 0u);
}

// Several clients at once, some cancelling at random moments, some pausing, some with deadlines
// that pass: every stream that is left to itself gives the same tokens as alone.
TEST_P(Generation, SurvivesManyConcurrentClients) {
  const auto engine =
      Create({.max_running = 6, .prefill_chunk = 16, .kv_tokens = 300, .kv_block_tokens = 4});
  std::vector<std::vector<int32_t>> expected;
  for (uint32_t kind = 0; kind < 4; ++kind)
    expected.push_back(GreedyByRecomputation(Prompt(10 + 9 * kind, kind), 40));

  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < 8; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937 random(client);
      for (int round = 0; round < 6; ++round) {
        const uint32_t kind = random() % 4;
        GenerationRequest request = Request(10 + 9 * kind, kind, 40);
        request.standing.priority = static_cast<Priority>(random() % 3);
        request.standing.client = std::to_string(client % 3);
        const uint32_t fate = random() % 4;
        if (fate == 1) request.deadline = absl::Now() + absl::Milliseconds(random() % 20);
        Collector collector;
        const auto stream = engine->Submit(request, collector.callback()).value();
        if (fate == 2) {
          collector.WaitForTokens(random() % 10);
          stream->Cancel();
        }
        if (fate == 3) {
          stream->SetPaused(true);
          std::this_thread::yield();
          stream->SetPaused(false);
        }
        const Outcome outcome = collector.Wait();
        if (outcome.last.status.ok()) {
          EXPECT_EQ(outcome.tokens, expected[kind]);
        } else {
          EXPECT_TRUE(fate == 1 || fate == 2) << outcome.last.status;
          ASSERT_LE(outcome.tokens.size(), expected[kind].size());
          EXPECT_TRUE(
              std::equal(outcome.tokens.begin(), outcome.tokens.end(), expected[kind].begin()));
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  engine->Drain(absl::InfiniteFuture());
  EXPECT_EQ(engine->stats().kv_blocks_used, 0u);
}

}  // namespace
}  // namespace quantloom
