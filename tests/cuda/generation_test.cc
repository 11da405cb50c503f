// The generation engine on the emulated CUDA device, which it runs a step ahead: the tokens of
// requests against those that the host's sampler takes from logits, step by step; and what comes of
// a device that fails.
#include "engine/generation.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/kv_cache.h"
#include "engine/loaded_model.h"
#include "engine/model.h"
#include "engine/sampler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/packed_tiny_model.h"

namespace quantloom {
namespace {

using cuda_emulation::EmulatedDevice;
using ::testing::HasSubstr;
using testing::Load;
using testing::Packed;
using testing::Tokens;

constexpr char kRecipe[] = "icquant:bits=2";

TEST(FailingCudaGeneration, TooLittleMemoryIsNamedWhenTheKvCacheIsMade) {
  ThreadTeam team(1);
  const EmulatedDevice cuda(1 << 20);
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const auto engine = GenerationEngine::Create(loaded, {.kv_tokens = 1 << 20});
  EXPECT_TRUE(absl::IsResourceExhausted(engine.status())) << engine.status();
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("KV cache: asked for"));
}

GenerationRequest Request(std::vector<int32_t> prompt, uint32_t max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

// Of every kind: greedy and drawn, cut, biased, banned from ending early, and those whose logits
// the host has to see.
std::vector<GenerationRequest> Requests() {
  std::vector<GenerationRequest> requests;
  const auto add = [&](size_t length, uint32_t seed, uint32_t max_tokens) -> GenerationRequest& {
    requests.push_back(Request(Tokens(length, seed), max_tokens));
    requests.back().sampling.seed = seed;
    return requests.back();
  };
  add(3, 2, 16).sampling.temperature = 1;
  add(3, 2, 16).sampling.temperature = 2;
  GenerationRequest& stopped = add(7, 4, 20);  // by one of many tokens, but not at once
  stopped.sampling.temperature = 5;
  stopped.min_tokens = 5;
  for (int32_t token = 0; token < 64; ++token) stopped.stop_tokens.push_back(token * 4);
  add(20, 1, 6);
  SamplingParams& cut = add(33, 3, 5).sampling;
  cut.temperature = 1.3f;
  cut.top_k = 40;
  cut.top_p = 0.9f;
  cut.min_p = 0.01f;
  GenerationRequest& biased = add(18, 1, 1);
  biased.sampling.logit_bias = {{5, 3.0f}, {9, -100.0f}};
  SamplingParams& penalized = add(12, 5, 6).sampling;
  penalized.temperature = 0.9f;
  penalized.repetition_penalty = 1.3f;
  add(5, 6, 4).logprobs = 2;
  GenerationRequest& many_bans = add(4, 7, 5);  // more than are edited on the device
  for (int32_t token = 1; token < 270; ++token) many_bans.stop_tokens.push_back(token);
  many_bans.min_tokens = 3;
  return requests;
}

// What a request generates, by the definition: from the logits of single steps.
std::vector<int32_t> Expected(const LoadedModel& loaded, const GenerationRequest& request) {
  const Model& model = loaded.model();
  auto kv = KvCache::Create(model.backend(), model.config(), 256, 16, KvElement::kF16).value();
  auto workspace = model.CreateWorkspace(64, 1);
  BlockTable blocks;
  kv->blocks().Cover(256, blocks);
  Sampler sampler(request.sampling, request.prompt);
  std::vector<int32_t> generated, next = request.prompt;
  uint32_t position = 0;
  while (generated.size() < request.max_tokens) {
    RaggedBatch batch;
    batch.Add(next, position, blocks);
    position += static_cast<uint32_t>(next.size());
    const auto last = static_cast<uint32_t>(next.size()) - 1;
    const auto logits = model.Step(batch, {last}, kv->storage(), *workspace).value();
    const bool may_end = generated.size() >= request.min_tokens;
    next = {sampler.Sample(logits, may_end ? std::vector<int32_t>() : request.stop_tokens)};
    generated.push_back(next[0]);
    if (std::count(request.stop_tokens.begin(), request.stop_tokens.end(), next[0]) > 0) break;
  }
  return generated;
}

const std::vector<std::vector<int32_t>>& ExpectedOfAll(const LoadedModel& loaded) {
  static const auto* const expected = [&] {
    auto* const all = new std::vector<std::vector<int32_t>>();
    for (const GenerationRequest& request : Requests()) all->push_back(Expected(loaded, request));
    return all;
  }();
  return *expected;
}

// A request's events, and its end.
struct Generated {
  std::vector<int32_t> tokens;
  GenerationEvent last;
};

// What requests that run at the same time come to; `on_token` is called after each token, on the
// engine's thread, with the request's number and stream (null while Submit runs).
using StreamPtr = std::shared_ptr<GenerationStream>;
using OnToken = std::function<void(size_t request, const StreamPtr& stream)>;
std::vector<Generated> Generate(GenerationEngine& engine,
                                const std::vector<GenerationRequest>& requests,
                                const OnToken& on_token = {}) {
  std::vector<Generated> generated(requests.size());
  std::mutex mutex;
  std::vector<StreamPtr> streams(requests.size());
  std::vector<std::promise<void>> ends(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto stream = engine.Submit(requests[i], [&, i](const GenerationEvent& event) {
      if (event.token) generated[i].tokens.push_back(*event.token);
      if (event.token && on_token) {
        std::unique_lock<std::mutex> lock(mutex);
        const StreamPtr own = streams[i];
        lock.unlock();
        on_token(i, own);
      }
      if (!event.last()) return;
      generated[i].last = event;
      ends[i].set_value();
    });
    EXPECT_TRUE(stream.ok()) << stream.status();
    std::lock_guard<std::mutex> lock(mutex);
    streams[i] = *stream;
  }
  for (auto& end : ends) end.get_future().get();
  return generated;
}

class CudaGeneration : public ::testing::Test {
 protected:
  void SetUp() override {
    loaded_ = Load(kRecipe, cuda_, team_);
    ASSERT_NE(loaded_, nullptr);
  }
  std::unique_ptr<GenerationEngine> Engine(const GenerationEngine::Limits& limits) {
    return GenerationEngine::Create(loaded_, limits).value();
  }

  ThreadTeam team_{1};
  EmulatedDevice cuda_;
  std::shared_ptr<const LoadedModel> loaded_;
};

// Blocks are short, shared and copied; too few, so that somebody has to give way.
constexpr GenerationEngine::Limits kTight = {
    .max_running = 4, .prefill_chunk = 7, .kv_tokens = 40, .kv_block_tokens = 8};

TEST_F(CudaGeneration, RequestsGetTheTokensThatTheHostWouldTakeAloneTogetherAndWithSharedPrefixes) {
  const std::vector<GenerationRequest> requests = Requests();
  const std::vector<std::vector<int32_t>>& expected = ExpectedOfAll(*loaded_);
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    const auto alone = Engine({.prefix_cache = false});
    const Generated generated = Generate(*alone, {requests[i]})[0];
    EXPECT_EQ(generated.tokens, expected[i]);
    const bool stopped = std::count(requests[i].stop_tokens.begin(), requests[i].stop_tokens.end(),
                                    expected[i].back()) > 0;
    EXPECT_EQ(generated.last.finish, stopped ? FinishReason::kStop : FinishReason::kLength);
    EXPECT_EQ(generated.last.generated_tokens, expected[i].size());
    EXPECT_EQ(alone->stats().generated_tokens, expected[i].size());
    EXPECT_EQ(alone->stats().kv_blocks_used, 0);
  }
  EXPECT_GT(expected[2].size(), 5);
  EXPECT_LT(expected[2].size(), 20);  // it does stop
  const auto engine = Engine(kTight);
  const std::vector<Generated> generated = Generate(*engine, requests);
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(generated[i].tokens, expected[i]) << i;
  EXPECT_EQ(Generate(*engine, {requests[3]})[0].tokens, expected[3]);
  EXPECT_EQ(Generate(*engine, {requests[5]})[0].tokens, expected[5]);
  EXPECT_GT(engine->stats().prefix_hit_tokens, 0);
  EXPECT_GT(engine->stats().preemptions, 0);
  EXPECT_EQ(engine->stats().kv_blocks_used, 0);
}

TEST_F(CudaGeneration, CancelledAndPausedRequestsGetNoOtherTokensAndDisturbNobody) {
  const std::vector<GenerationRequest> requests = Requests();
  const std::vector<std::vector<int32_t>>& expected = ExpectedOfAll(*loaded_);
  const auto engine = Engine(kTight);
  std::mt19937 random(3);
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<std::future<void>> resumed;
    std::vector<bool> cancelled(requests.size());
    const std::vector<Generated> generated =
        Generate(*engine, requests, [&](size_t request, const StreamPtr& stream) {
          if (stream == nullptr) return;
          const uint32_t what = random() % 16;
          if (what == 0) {
            cancelled[request] = true;
            stream->Cancel();
          } else if (what < 4) {
            stream->SetPaused(true);
            resumed.push_back(std::async(std::launch::async, [stream] {
              absl::SleepFor(absl::Milliseconds(2));
              stream->SetPaused(false);
            }));
          }
        });
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::vector<int32_t>& tokens = generated[i].tokens;
      ASSERT_LE(tokens.size(), expected[i].size());
      EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected[i].begin())) << i;
      if (!cancelled[i]) {
        EXPECT_EQ(tokens.size(), expected[i].size()) << i;
      }
    }
  }
  EXPECT_EQ(engine->stats().kv_blocks_used, 0);
}

TEST_F(CudaGeneration, TheNextStepIsStartedBeforeATokenIsHandedOutExceptTheLast) {
  const auto engine = Engine({.max_running = 2, .kv_tokens = 128});
  constexpr uint32_t kTokens = 6;
  Generate(*engine, {Request(Tokens(3, 1), 2 * kTokens)});  // records the steps
  std::vector<uint64_t> launches;
  const auto count = [&](size_t, const StreamPtr&) {
    launches.push_back(cuda_.runtime().counts().graph_launches);
  };
  const uint64_t before = cuda_.runtime().counts().graph_launches;
  Generate(*engine, {Request(Tokens(1, 1), kTokens)}, count);
  ASSERT_EQ(launches.size(), kTokens);
  for (uint32_t i = 0; i < kTokens; ++i) {
    EXPECT_EQ(launches[i] - before, std::min(i + 2, kTokens)) << i;
  }
  // The host has to see the logits.
  launches.clear();
  GenerationRequest request = Request(Tokens(1, 2), kTokens);
  request.logprobs = 1;
  Generate(*engine, {request});  // steps that choose nothing are recorded apart
  const uint64_t seen = cuda_.runtime().counts().graph_launches;
  Generate(*engine, {request}, count);
  for (uint32_t i = 0; i < kTokens; ++i) EXPECT_EQ(launches[i] - seen, i + 1) << i;
}

TEST_F(CudaGeneration, WhatIsGeneratedAfterAStopIsNotShared) {
  // The step after a stop has written keys and values of the stop token, where nobody may find
  // them: a prompt that goes on with other tokens shares what is before.
  GenerationRequest first = Request(Tokens(5, 8), 30);
  first.sampling.temperature = 1;
  first.min_tokens = 5;
  for (int32_t token = 0; token < 64; ++token) first.stop_tokens.push_back(token * 4);
  const std::vector<int32_t> stopped = Expected(*loaded_, first);
  std::vector<GenerationRequest> others;
  std::vector<std::vector<int32_t>> expected;
  for (const int32_t other : {stopped.back(), 1, 2}) {
    std::vector<int32_t> prompt = first.prompt;
    prompt.insert(prompt.end(), stopped.begin(), stopped.end());
    prompt.back() = other;
    prompt.insert(prompt.end(), {17, 18, 19});
    others.push_back(Request(prompt, 6));
    expected.push_back(Expected(*loaded_, others.back()));
  }
  const auto engine = Engine({.max_running = 2, .kv_tokens = 128, .kv_block_tokens = 8});
  const Generated generated = Generate(*engine, {first})[0];
  EXPECT_EQ(generated.last.finish, FinishReason::kStop);
  EXPECT_EQ(generated.tokens, stopped);
  for (size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(Generate(*engine, {others[i]})[0].tokens, expected[i]) << i;
  }
}

TEST_F(CudaGeneration, EndsWhileAStepIsRunning) {
  for (int turn = 0; turn < 5; ++turn) {
    auto engine = Engine({.max_running = 2, .kv_tokens = 128});
    std::promise<void> begun;
    std::promise<absl::Status> end;
    int tokens = 0;
    const auto stream = engine->Submit(Request(Tokens(3, 1), 100), [&](const auto& event) {
      if (event.token && ++tokens == 1 + turn % 5) begun.set_value();
      if (event.last()) end.set_value(event.status);
    });
    ASSERT_TRUE(stream.ok());
    begun.get_future().get();
    engine.reset();
    EXPECT_TRUE(absl::IsUnavailable(end.get_future().get()));
  }
}

// --- A device that fails

// Generates with two requests on a device that fails after so many calls. Nothing may hang or
// crash; who has no answer gets a status.
void GenerateOnFailingDevice(uint64_t calls, bool* failed) {
  SCOPED_TRACE(absl::StrCat("after ", calls, " calls"));
  ThreadTeam team(1);
  EmulatedDevice cuda;
  cuda.FailAfter(calls);
  const auto loaded = LoadedModel::LoadPacked(Packed(kRecipe), Verify::kHeader, cuda, team);
  *failed = true;
  if (!loaded.ok()) {
    EXPECT_TRUE(absl::IsInternal(loaded.status())) << loaded.status();
    return;
  }
  std::atomic<int> failures = 0;
  auto engine = GenerationEngine::Create(*loaded, {.max_running = 2, .kv_tokens = 64},
                                         [&](const absl::Status& status) {
                                           EXPECT_TRUE(absl::IsInternal(status)) << status;
                                           ++failures;
                                         });
  if (!engine.ok()) {
    EXPECT_TRUE(absl::IsInternal(engine.status())) << engine.status();
    return;
  }
  std::vector<std::promise<absl::Status>> ends(2);
  for (uint32_t i = 0; i < ends.size(); ++i) {
    GenerationRequest request;
    request.prompt = Tokens(3, i);
    request.max_tokens = 6;
    request.ignore_eos = true;
    const auto stream = (*engine)->Submit(request, [&end = ends[i]](const GenerationEvent& event) {
      if (event.last()) end.set_value(event.status);
    });
    if (!stream.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(stream.status())) << stream.status();
      ends[i].set_value(stream.status());
    }
  }
  *failed = false;
  for (auto& end : ends) {
    const absl::Status status = end.get_future().get();
    if (status.ok()) continue;
    *failed = true;
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("injected"));
  }
  EXPECT_EQ(failures, *failed ? 1 : 0);
  if (!*failed) return;
  GenerationRequest request;
  request.prompt = {1};
  EXPECT_TRUE(absl::IsUnavailable((*engine)->Submit(request, [](const auto&) {}).status()));
}

TEST(FailingCudaGeneration, ADeviceThatFailsAnywhereEndsRequestsAndNeverHangs) {
  bool failed = true;
  uint64_t calls = 0;
  // Every call of the first few, then further apart; until it fails so late that nothing does.
  for (; failed; calls += calls < 20 ? 1 : 13) {
    ASSERT_LT(calls, 20000);
    GenerateOnFailingDevice(calls, &failed);
  }
  EXPECT_GT(calls, 200);
}

}  // namespace
}  // namespace quantloom
