// Prefix sharing: what is computed, and that it changes nothing else.
#include <string>
#include <vector>

#include "engine/generation.h"
#include "gtest/gtest.h"
#include "tests/engine/generation_fixture.h"

namespace quantloom {
namespace {

// Requests whose prompts begin with the same `prefix` tokens.
std::vector<GenerationRequest> WithSharedPrefix(size_t count, size_t prefix) {
  std::vector<GenerationRequest> requests;
  const std::vector<int32_t> shared = Prompt(prefix, 1000);
  for (size_t i = 0; i < count; ++i) {
    GenerationRequest& request = requests.emplace_back(Request(3 + 5 * i, 2000 + i, 12));
    request.prompt.insert(request.prompt.begin(), shared.begin(), shared.end());
  }
  return requests;
}

TEST_P(Generation, ASharedPromptIsComputedOnceAndChangesNoToken) {
  const auto requests = WithSharedPrefix(4, 400);
  for (const uint32_t block_tokens : {16u, 7u, 1u}) {
    const auto with = Create({.kv_block_tokens = block_tokens});
    const auto without = Create({.kv_block_tokens = block_tokens, .prefix_cache = false});
    uint64_t computed = 0;
    uint64_t spared = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      const Outcome shared = Run(*with, requests[i]);
      EXPECT_EQ(shared.tokens, Run(*without, requests[i]).tokens);
      EXPECT_EQ(shared.last.prompt_tokens, requests[i].prompt.size());
      if (i == 0) {
        EXPECT_EQ(shared.last.cached_tokens, 0u);
      } else {
        EXPECT_GE(shared.last.cached_tokens, 400u);
      }
      computed += requests[i].prompt.size() - shared.last.cached_tokens;
      spared += shared.last.cached_tokens;
    }
    EXPECT_EQ(with->stats().prompt_tokens, computed);
    EXPECT_EQ(with->stats().prefix_hit_tokens, spared);
    EXPECT_EQ(with->stats().kv_blocks_used, 0u);
    EXPECT_GT(with->stats().kv_blocks_cached, 0u);
    EXPECT_EQ(without->stats().prefix_hit_tokens, 0u);
    EXPECT_EQ(without->stats().kv_blocks_cached, 0u);
  }
}

TEST_P(Generation, ASharedPromptOfRequestsThatComeTogetherIsComputedOnce) {
  const auto requests = WithSharedPrefix(6, 400);
  const auto engine = Create();
  const std::vector<Outcome> together = RunTogether(*engine, requests);
  const auto without = Create({.prefix_cache = false});
  uint64_t own = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].tokens, Run(*without, requests[i]).tokens) << "request " << i;
    own += requests[i].prompt.size() - 400;
  }
  EXPECT_LE(engine->stats().prompt_tokens, 400 + own);
}

TEST_P(Generation, APromptSentAgainIsComputedInItsLastTokenAlone) {
  const auto engine = Create();
  for (const size_t length : {1u, 15u, 16u, 17u, 100u}) {
    const Outcome first = Run(*engine, Request(length, 5, 10));
    const Outcome again = Run(*engine, Request(length, 5, 10));
    EXPECT_EQ(again.tokens, first.tokens);
    EXPECT_EQ(again.last.cached_tokens, length - 1);
  }
}

TEST_P(Generation, AConversationGoesOnFromItsLastAnswer) {
  const auto engine = Create();
  GenerationRequest request = Request(50, 5, 30);
  const Outcome answer = Run(*engine, request);
  request.prompt.insert(request.prompt.end(), answer.tokens.begin(), answer.tokens.end());
  const std::vector<int32_t> next = Prompt(9, 6);
  request.prompt.insert(request.prompt.end(), next.begin(), next.end());
  const Outcome continued = Run(*engine, request);
  EXPECT_EQ(continued.last.cached_tokens, 79u) << "the answer's last token was never run";
  EXPECT_EQ(continued.tokens, GreedyByRecomputation(request.prompt, 30));
}

TEST_P(Generation, OptOutAndSaltsKeepPromptsApart) {
  const auto engine = Create();
  GenerationRequest request = Request(100, 5, 3);
  request.prefix_salt = "one";
  Run(*engine, request);
  EXPECT_EQ(Run(*engine, request).last.cached_tokens, 99u);
  request.prefix_salt = "two";
  EXPECT_EQ(Run(*engine, request).last.cached_tokens, 0u);
  request.share_prefix = false;
  EXPECT_EQ(Run(*engine, request).last.cached_tokens, 0u);
  request = Request(100, 6, 3);
  request.share_prefix = false;
  Run(*engine, request);
  EXPECT_EQ(Run(*engine, Request(100, 6, 3)).last.cached_tokens, 0u) << "it left nothing behind";
}

TEST_P(Generation, IsolatedClientsShareWithThemselvesAlone) {
  const auto engine = Create({.isolate_clients = true});
  GenerationRequest request = Request(100, 5, 3);
  request.standing.client = std::string("alice");
  Run(*engine, request);
  EXPECT_EQ(Run(*engine, request).last.cached_tokens, 99u);
  request.standing.client = std::string("bob");
  EXPECT_EQ(Run(*engine, request).last.cached_tokens, 0u);
}

TEST_P(Generation, ScoresAreTheSameWhateverIsCached) {
  const std::vector<int32_t> text = Prompt(120, 5);
  const auto fresh = Create();
  const auto expected = fresh->Score(text, {}).value();
  const auto used = Create();
  Run(*used, Request(120, 5, 10));
  const auto scores = used->Score(text, {}).value();
  ASSERT_EQ(scores.size(), expected.size());
  for (size_t i = 0; i < scores.size(); ++i) EXPECT_EQ(scores[i].logprob, expected[i].logprob);
  // And a scored text serves a generation.
  EXPECT_EQ(Run(*fresh, Request(120, 5, 10)).last.cached_tokens, 119u);
}

}  // namespace
}  // namespace quantloom
