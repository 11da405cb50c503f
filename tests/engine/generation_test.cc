#include "engine/generation.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <future>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "core/base/parallel.h"
#include "core/text/utf8.h"
#include "engine/quantize/quantize_model.h"
#include "engine/window_runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing::TemporaryDirectory;

// What a request came to.
struct Outcome {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<GenerationEvent> events;
  GenerationEvent last;
};

// Collects a request's events; Wait returns when the last one is there.
class Collector {
 public:
  GenerationEngine::EventCallback callback() {
    return [this](const GenerationEvent& event) {
      std::lock_guard<std::mutex> lock(mutex_);
      EXPECT_FALSE(done_) << "an event after the last";
      EXPECT_TRUE(IsValidUtf8(event.text));
      outcome_.events.push_back(event);
      if (event.token) outcome_.tokens.push_back(*event.token);
      outcome_.text += event.text;
      if (event.last()) {
        outcome_.last = event;
        done_ = true;
      }
      changed_.notify_all();
    };
  }
  Outcome Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
    return outcome_;
  }
  void WaitForTokens(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return done_ || outcome_.tokens.size() >= count; });
  }
  size_t tokens() {
    std::lock_guard<std::mutex> lock(mutex_);
    return outcome_.tokens.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  Outcome outcome_;
};

std::vector<int32_t> Prompt(size_t length, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& token : tokens) token = 1 + static_cast<int32_t>(random() % 256);
  return tokens;
}

GenerationRequest Request(size_t prompt_length, uint32_t seed, uint32_t max_tokens) {
  GenerationRequest request;
  request.prompt = Prompt(prompt_length, seed);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

// The model that all tests share, from its source values and packed at 4 bits.
class Models {
 public:
  static const Models& Get() {
    static const Models* models = new Models();
    return *models;
  }
  std::shared_ptr<const LoadedModel> Load(bool packed, ThreadTeam& team) const {
    auto loaded = packed
                      ? LoadedModel::LoadPacked(directory_.path() / "packed", Verify::kFull, team)
                      : LoadedModel::LoadSource(directory_.path() / "source", team);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *loaded;
  }

 private:
  Models() {
    testing::WriteTinyModel(directory_.path() / "source", 42);
    QuantizeOptions options;
    options.source = directory_.path() / "source";
    options.recipe = "icquant:bits=4";
    options.calibration_tokens = 0;
    ThreadTeam team(2);
    const auto result = QuantizeModel(
        options, directory_.path() / "packed", team, [](const auto&) {}, [] { return false; });
    EXPECT_TRUE(result.ok()) << result.status();
  }
  TemporaryDirectory directory_;
};

class Generation : public ::testing::TestWithParam<bool> {
 protected:
  explicit Generation(int threads = 2)
      : team_(threads), model_(Models::Get().Load(GetParam(), team_)) {}

  std::unique_ptr<GenerationEngine> Create(const GenerationEngine::Limits& limits = {}) {
    auto engine = GenerationEngine::Create(model_, limits);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  static Outcome Run(GenerationEngine& engine, const GenerationRequest& request) {
    Collector collector;
    const auto stream = engine.Submit(request, collector.callback());
    EXPECT_TRUE(stream.ok()) << stream.status();
    return collector.Wait();
  }
  static std::vector<Outcome> RunTogether(GenerationEngine& engine,
                                          const std::vector<GenerationRequest>& requests) {
    std::vector<Collector> collectors(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      const auto stream = engine.Submit(requests[i], collectors[i].callback());
      EXPECT_TRUE(stream.ok()) << stream.status();
    }
    std::vector<Outcome> outcomes;
    for (Collector& collector : collectors) outcomes.push_back(collector.Wait());
    return outcomes;
  }
  // Greedy continuation without an engine: the whole sequence anew for each token.
  std::vector<int32_t> GreedyByRecomputation(std::vector<int32_t> tokens, size_t count) const {
    auto runner =
        WindowRunner::Create(model_->model(), tokens.size() + count, KvElement::kF16).value();
    const size_t prompt = tokens.size();
    while (tokens.size() < prompt + count) {
      EXPECT_TRUE(runner->Forward(tokens).ok());
      runner->VisitLogits(tokens.size() - 1, tokens.size(), [&](size_t, absl::Span<const float> x) {
        tokens.push_back(static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin()));
      });
    }
    return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt), tokens.end()};
  }

  ThreadTeam team_;
  std::shared_ptr<const LoadedModel> model_;
};

INSTANTIATE_TEST_SUITE_P(, Generation, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Packed" : "Source"; });

std::vector<GenerationRequest> MixedRequests() {
  std::vector<GenerationRequest> requests;
  const size_t lengths[] = {1, 37, 5, 90, 16, 17, 64, 2};
  for (size_t i = 0; i < std::size(lengths); ++i)
    requests.push_back(
        Request(lengths[i], static_cast<uint32_t>(i), 12 + 5 * static_cast<uint32_t>(i)));
  return requests;
}

TEST_P(Generation, GreedyTokensAreTheSameAloneTogetherChunkedAndPreempted) {
  const std::vector<GenerationRequest> requests = MixedRequests();
  std::vector<std::vector<int32_t>> expected;
  for (const auto& request : requests)
    expected.push_back(GreedyByRecomputation(request.prompt, request.max_tokens));

  {
    const auto engine = Create();
    for (size_t i = 0; i < requests.size(); ++i)
      EXPECT_EQ(Run(*engine, requests[i]).tokens, expected[i]) << "alone, request " << i;
  }
  struct Case {
    const char* name;
    GenerationEngine::Limits limits;
    bool must_preempt;
  };
  const Case cases[] = {
      {"defaults", {}, false},
      {"one token a chunk", {.prefill_chunk = 1}, false},
      {"odd chunks, small steps", {.max_running = 3, .step_tokens = 5, .prefill_chunk = 7}, false},
      {"blocks of one", {.kv_tokens = 1000, .kv_block_tokens = 1}, false},
      {"too few blocks", {.prefill_chunk = 16, .kv_tokens = 160, .kv_block_tokens = 4}, true},
  };
  for (const Case& test : cases) {
    for (int threads : {1, 2}) {
      ThreadTeam team(threads);
      auto engine =
          GenerationEngine::Create(Models::Get().Load(GetParam(), team), test.limits).value();
      const std::vector<Outcome> outcomes = RunTogether(*engine, requests);
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(outcomes[i].tokens, expected[i]) << test.name << ", request " << i;
        EXPECT_EQ(outcomes[i].last.finish, FinishReason::kLength);
      }
      EXPECT_EQ(engine->stats().preemptions > 0, test.must_preempt) << test.name;
      EXPECT_EQ(engine->stats().kv_blocks_used, 0u);
    }
  }
}

TEST_P(Generation, SampledTokensDependOnTheSeedAlone) {
  std::vector<GenerationRequest> requests = MixedRequests();
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].sampling.temperature = 1.2f;
    requests[i].sampling.top_p = 0.95f;
    requests[i].sampling.repetition_penalty = 1.1f;
    requests[i].sampling.frequency_penalty = 0.3f;
    requests[i].sampling.seed = i;
  }
  const auto roomy = Create();
  const auto crowded = Create({.prefill_chunk = 8, .kv_tokens = 160, .kv_block_tokens = 4});
  const std::vector<Outcome> together = RunTogether(*crowded, requests);
  EXPECT_GT(crowded->stats().preemptions, 0u);
  for (size_t i = 0; i < requests.size(); ++i)
    EXPECT_EQ(together[i].tokens, Run(*roomy, requests[i]).tokens) << "request " << i;
  requests[3].sampling.seed = 1000;
  EXPECT_NE(Run(*roomy, requests[3]).tokens, together[3].tokens);
}

TEST_P(Generation, TextIsTheDecodedTokensInCompleteCharacters) {
  const auto engine = Create();
  for (uint32_t seed = 0; seed < 5; ++seed) {
    GenerationRequest request = Request(10, seed, 60);
    request.sampling.temperature = 2;  // byte tokens at random: mostly broken UTF-8
    request.sampling.seed = seed;
    const Outcome outcome = Run(*engine, request);
    const std::string bytes = model_->tokenizer().Decode(outcome.tokens, true).value();
    EXPECT_EQ(outcome.text, ReplaceInvalidUtf8(bytes));
    EXPECT_EQ(outcome.last.generated_tokens, outcome.tokens.size());
    EXPECT_EQ(outcome.last.prompt_tokens, 10u);
  }
}

TEST_P(Generation, StopStringEndsTheTextBeforeIt) {
  const auto engine = Create();
  GenerationRequest request = Request(20, 9, 40);
  const Outcome whole = Run(*engine, request);
  // Across token boundaries: from the middle of what the 5th to 8th tokens wrote.
  ASSERT_GE(whole.text.size(), 12u);
  std::vector<size_t> starts;  // of characters
  for (size_t i = 0; i < whole.text.size();
       i += DecodeUtf8(absl::string_view(whole.text).substr(i)).length)
    starts.push_back(i);
  ASSERT_GE(starts.size(), 9u);
  const std::string stop = whole.text.substr(starts[4], starts[8] - starts[4]);
  request.stop = {"never in the text", stop};
  const Outcome stopped = Run(*engine, request);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_EQ(stopped.last.finish, FinishReason::kStopSequence);
  EXPECT_EQ(stopped.last.stop_sequence, stop);
  EXPECT_LT(stopped.tokens.size(), whole.tokens.size());
}

TEST_P(Generation, StopTokenEndsGenerationWithoutText) {
  const auto engine = Create();
  GenerationRequest request = Request(20, 9, 40);
  const Outcome whole = Run(*engine, request);
  const int32_t stop = whole.tokens[10];
  const auto first =
      std::find(whole.tokens.begin(), whole.tokens.end(), stop) - whole.tokens.begin();
  request.stop_tokens = {stop};
  const Outcome stopped = Run(*engine, request);
  EXPECT_EQ(stopped.last.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.last.token, stop);
  ASSERT_EQ(stopped.tokens.size(), static_cast<size_t>(first) + 1);
  const std::vector<int32_t> before(whole.tokens.begin(), whole.tokens.begin() + first);
  EXPECT_EQ(stopped.text, ReplaceInvalidUtf8(model_->tokenizer().Decode(before, true).value()));
}

TEST_P(Generation, EndOfSequenceEndsGenerationUnlessIgnored) {
  const auto engine = Create();
  GenerationRequest request = Request(4, 1, 5);
  request.sampling.logit_bias = {{0, 100.0f}};  // end of text is certain
  request.ignore_eos = false;
  const Outcome ended = Run(*engine, request);
  EXPECT_EQ(ended.last.finish, FinishReason::kStop);
  EXPECT_EQ(ended.tokens, std::vector<int32_t>{0});
  EXPECT_EQ(ended.text, "");
  request.ignore_eos = true;
  const Outcome ignored = Run(*engine, request);
  EXPECT_EQ(ignored.last.finish, FinishReason::kLength);
  EXPECT_EQ(ignored.tokens, std::vector<int32_t>(5, 0));
  EXPECT_EQ(ignored.text, "") << "special tokens have no text";
}

TEST_P(Generation, MaxTokensZeroGoesAsFarAsContextAndCacheAllow) {
  EXPECT_EQ(Run(*Create(), Request(500, 1, 0)).tokens.size(), 12u) << "context of 512";
  EXPECT_EQ(Run(*Create(), Request(500, 1, 400)).tokens.size(), 12u);
  EXPECT_EQ(Run(*Create({.kv_tokens = 64}), Request(60, 1, 0)).tokens.size(), 5u)
      << "the last token needs no room in the cache";
}

TEST_P(Generation, LogprobsAreTheModelsOwn) {
  const auto engine = Create();
  GenerationRequest request = Request(15, 4, 6);
  request.logprobs = 5;
  request.sampling.temperature = 3;
  request.sampling.presence_penalty = 2;
  const Outcome outcome = Run(*engine, request);
  std::vector<int32_t> text = request.prompt;
  text.insert(text.end(), outcome.tokens.begin(), outcome.tokens.end());
  const auto scores = engine->Score(text, 5, absl::InfiniteFuture(), nullptr);
  ASSERT_TRUE(scores.ok()) << scores.status();
  for (size_t i = 0; i < outcome.tokens.size(); ++i) {
    const auto& score = (*scores)[request.prompt.size() - 1 + i];
    EXPECT_EQ(outcome.events[i].logprob, score.logprob);
    ASSERT_EQ(outcome.events[i].top.size(), 5u);
    for (size_t k = 0; k < 5; ++k) {
      EXPECT_EQ(outcome.events[i].top[k].token, score.top[k].token);
      EXPECT_EQ(outcome.events[i].top[k].logprob, score.top[k].logprob);
    }
  }
}

TEST_P(Generation, ScoreIsTheLogprobOfEachTokenAlsoBesideStreams) {
  const std::vector<int32_t> text = Prompt(150, 77);
  std::vector<double> expected;
  auto runner = WindowRunner::Create(model_->model(), text.size(), KvElement::kF16).value();
  ASSERT_TRUE(runner->Forward(text).ok());
  runner->VisitLogits(0, text.size() - 1, [&](size_t i, absl::Span<const float> logits) {
    double sum = 0;
    for (float logit : logits) sum += std::exp(static_cast<double>(logit));
    expected.push_back(logits[static_cast<size_t>(text[i + 1])] - std::log(sum));
  });

  const auto engine = Create({.prefill_chunk = 20, .kv_tokens = 240, .kv_block_tokens = 4});
  std::vector<Collector> collectors(4);
  for (uint32_t i = 0; i < collectors.size(); ++i)
    ASSERT_TRUE(engine->Submit(Request(20, i, 80), collectors[i].callback()).ok());
  const auto scores = engine->Score(text, 2, absl::InfiniteFuture(), nullptr);
  ASSERT_TRUE(scores.ok()) << scores.status();
  ASSERT_EQ(scores->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ((*scores)[i].token, text[i + 1]);
    EXPECT_NEAR((*scores)[i].logprob, expected[i], 1e-5);
    ASSERT_EQ((*scores)[i].top.size(), 2u);
    EXPECT_GE((*scores)[i].top[0].logprob, (*scores)[i].top[1].logprob);
  }
  for (Collector& collector : collectors)
    EXPECT_EQ(collector.Wait().last.finish, FinishReason::kLength);
  EXPECT_TRUE(engine->Score({5}, 0, absl::InfiniteFuture(), nullptr)->empty());
}

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

// A stream that pauses itself at its first token: what a request in progress looks like, without
// racing against it.
class PausedRequest {
 public:
  PausedRequest(GenerationEngine& engine, const GenerationRequest& request) {
    auto stream = engine.Submit(request, [this](const GenerationEvent& event) {
      if (!event.last() && !paused_) {
        paused_ = true;
        stream_.get_future().get()->SetPaused(true);
      }
      collector_.callback()(event);
    });
    EXPECT_TRUE(stream.ok()) << stream.status();
    handle_ = *stream;
    stream_.set_value(*stream);
    collector_.WaitForTokens(1);
  }
  GenerationStream& stream() { return *handle_; }
  Collector& collector() { return collector_; }

 private:
  Collector collector_;
  bool paused_ = false;
  std::promise<std::shared_ptr<GenerationStream>> stream_;
  std::shared_ptr<GenerationStream> handle_;
};

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
  EXPECT_TRUE(absl::IsResourceExhausted(
      engine->Score({1, 2}, 0, absl::InfiniteFuture(), nullptr).status()));
  EXPECT_EQ(engine->stats().requests_running + engine->stats().requests_waiting, 2u);
  running.stream().SetPaused(false);
  waiting.stream().SetPaused(false);
  running.collector().Wait();
  waiting.collector().Wait();
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
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      engine->Score(Prompt(50, 1), 0, absl::Now() - absl::Seconds(1), nullptr).status()));
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
  const auto score = narrow->Score(Prompt(50, 1), 0, absl::InfiniteFuture(), [] { return true; });
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
  EXPECT_TRUE(
      absl::IsUnavailable(engine->Score({1, 2}, 0, absl::InfiniteFuture(), nullptr).status()));
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

TEST_P(Generation, SubmitNamesTheFieldThatIsWrong) {
  const auto engine = Create({.kv_tokens = 128});
  struct Case {
    const char* field;
    void (*break_it)(GenerationRequest&);
  };
  const Case cases[] = {
      {"prompt: must not be empty", [](GenerationRequest& r) { r.prompt.clear(); }},
      {"prompt: 512 tokens", [](GenerationRequest& r) { r.prompt = Prompt(512, 1); }},
      {"prompt: 129 tokens", [](GenerationRequest& r) { r.prompt = Prompt(129, 1); }},
      {"prompt: token 272",
       [](GenerationRequest& r) {
         r.prompt = {1, 272};
       }},
      {"prompt: token -1", [](GenerationRequest& r) { r.prompt = {-1}; }},
      {"max_tokens: ", [](GenerationRequest& r) { r.max_tokens = 200; }},
      {"stop: ", [](GenerationRequest& r) { r.stop = {""}; }},
      {"stop: ", [](GenerationRequest& r) { r.stop = {"\xC3"}; }},
      {"stop: ", [](GenerationRequest& r) { r.stop.assign(kMaxStopStrings + 1, "x"); }},
      {"stop: ",
       [](GenerationRequest& r) { r.stop = {std::string(kMaxStopStringBytes + 1, 'x')}; }},
      {"stop_tokens: token 300", [](GenerationRequest& r) { r.stop_tokens = {300}; }},
      {"logprobs: ", [](GenerationRequest& r) { r.logprobs = kMaxLogprobs + 1; }},
      {"temperature: ", [](GenerationRequest& r) { r.sampling.temperature = std::nanf(""); }},
      {"top_k: ", [](GenerationRequest& r) { r.sampling.top_k = -3; }},
  };
  for (const Case& test : cases) {
    GenerationRequest request = Request(10, 1, 5);
    test.break_it(request);
    const auto stream = engine->Submit(request, [](const GenerationEvent&) {
      ADD_FAILURE() << "a refused request has no events";
    });
    EXPECT_TRUE(absl::IsInvalidArgument(stream.status())) << test.field << stream.status();
    EXPECT_THAT(std::string(stream.status().message()), StartsWith(test.field));
  }
  const auto score = [&](const std::vector<int32_t>& tokens, uint32_t top) {
    return std::string(
        engine->Score(tokens, top, absl::InfiniteFuture(), nullptr).status().message());
  };
  EXPECT_THAT(score({}, 0), StartsWith("tokens: "));
  EXPECT_THAT(score({1, 999}, 0), StartsWith("tokens: token 999"));
  EXPECT_THAT(score(Prompt(130, 1), 0), StartsWith("tokens: 130"));
  EXPECT_THAT(score({1, 2}, kMaxLogprobs + 1), StartsWith("top: "));
}

TEST_P(Generation, CreateNamesTheLimitThatIsWrong) {
  const auto message = [&](const GenerationEngine::Limits& limits) {
    const auto engine = GenerationEngine::Create(model_, limits);
    EXPECT_TRUE(absl::IsInvalidArgument(engine.status()));
    return std::string(engine.status().message());
  };
  EXPECT_THAT(message({.max_running = 0}), HasSubstr("max_running"));
  EXPECT_THAT(message({.max_running = 8, .step_tokens = 7}), HasSubstr("step_tokens"));
  EXPECT_THAT(message({.prefill_chunk = 0}), HasSubstr("prefill_chunk"));
  EXPECT_THAT(message({.kv_block_tokens = 0}), HasSubstr("kv_block_tokens"));
}

TEST_P(Generation, StatsCountTokensOnce) {
  const auto engine = Create({.prefill_chunk = 16, .kv_tokens = 160, .kv_block_tokens = 4});
  const auto requests = MixedRequests();
  RunTogether(*engine, requests);
  engine->Drain(absl::InfiniteFuture());
  uint64_t prompt = 0;
  uint64_t generated = 0;
  for (const GenerationRequest& request : requests) {
    prompt += request.prompt.size();
    generated += request.max_tokens;
  }
  const EngineStats stats = engine->stats();
  EXPECT_GT(stats.preemptions, 0u);
  EXPECT_EQ(stats.prompt_tokens, prompt) << "recomputed prompts are not counted again";
  EXPECT_EQ(stats.generated_tokens, generated);
  EXPECT_EQ(stats.requests_running, 0u);
  EXPECT_EQ(stats.requests_waiting, 0u);
  EXPECT_EQ(stats.kv_blocks_total, 40u);
  EXPECT_GE(stats.weight_bytes_read, stats.steps * model_->model().layer_weight_bytes());
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
