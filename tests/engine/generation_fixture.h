// What the tests of the generation engine share: requests, their outcomes, and a tiny model.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "engine/generation.h"
#include "gtest/gtest.h"

namespace quantloom {

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
  GenerationEngine::EventCallback callback();
  Outcome Wait();
  void WaitForTokens(size_t count);
  size_t tokens();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  Outcome outcome_;
};

// A stream that pauses itself at its first token: what a request in progress looks like, without
// racing against it.
class PausedRequest {
 public:
  PausedRequest(GenerationEngine& engine, const GenerationRequest& request);
  GenerationStream& stream() { return *handle_; }
  Collector& collector() { return collector_; }

 private:
  Collector collector_;
  bool paused_ = false;
  std::promise<std::shared_ptr<GenerationStream>> stream_;
  std::shared_ptr<GenerationStream> handle_;
};

// Random tokens, the same for the same seed.
std::vector<int32_t> Prompt(size_t length, uint32_t seed);
// Greedy, `max_tokens` tokens exactly.
GenerationRequest Request(size_t prompt_length, uint32_t seed, uint32_t max_tokens);
// Of eight lengths around the sizes of blocks and chunks.
std::vector<GenerationRequest> MixedRequests();

// The tiny model that all tests share, from its source values or packed at 4 bits.
std::shared_ptr<const LoadedModel> LoadTinyModel(bool packed, ThreadTeam& team);

// The parameter: whether the model is packed.
class Generation : public ::testing::TestWithParam<bool> {
 protected:
  explicit Generation(int threads = 2) : team_(threads), model_(LoadTinyModel(GetParam(), team_)) {}

  std::unique_ptr<GenerationEngine> Create(const GenerationEngine::Limits& limits = {});
  static Outcome Run(GenerationEngine& engine, const GenerationRequest& request);
  static std::vector<Outcome> RunTogether(GenerationEngine& engine,
                                          const std::vector<GenerationRequest>& requests);
  // Greedy continuation without an engine: the whole sequence anew for each token.
  std::vector<int32_t> GreedyByRecomputation(std::vector<int32_t> tokens, size_t count) const;

  ThreadTeam team_;
  std::shared_ptr<const LoadedModel> model_;
};

}  // namespace quantloom
