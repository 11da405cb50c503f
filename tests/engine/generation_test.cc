#include "engine/generation.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/text/utf8.h"
#include "engine/window_runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/generation_fixture.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

INSTANTIATE_TEST_SUITE_P(, Generation, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Packed" : "Source"; });

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
      auto engine = GenerationEngine::Create(LoadTinyModel(GetParam(), team), test.limits).value();
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

TEST_P(Generation, MinTokensHoldOffEveryEndButTheLast) {
  const auto engine = Create();
  GenerationRequest request = Request(4, 1, 9);
  request.ignore_eos = false;
  request.sampling.logit_bias = {{0, 100.0f}, {42, 90.0f}};  // end of text, else one letter
  request.stop_tokens = {42};
  EXPECT_EQ(Run(*engine, request).tokens, std::vector<int32_t>{0});
  request.min_tokens = 5;
  const Outcome late = Run(*engine, request);
  EXPECT_EQ(late.last.finish, FinishReason::kStop);
  ASSERT_EQ(late.tokens.size(), 6u);
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(late.tokens[i] != 0 && late.tokens[i] != 42);
  EXPECT_EQ(late.tokens[5], 0);
  request.min_tokens = 9;
  EXPECT_EQ(Run(*engine, request).last.finish, FinishReason::kLength);

  GenerationRequest letters = Request(4, 1, 9);
  letters.sampling.logit_bias = {{1 + 'x', 100.0f}};
  letters.stop = {"xx"};
  EXPECT_EQ(Run(*engine, letters).text, "");
  letters.min_tokens = 3;
  const Outcome outcome = Run(*engine, letters);
  EXPECT_EQ(outcome.text, "xxx") << "looked for in the text of later tokens";
  EXPECT_EQ(outcome.last.finish, FinishReason::kStopSequence);
  EXPECT_EQ(outcome.tokens.size(), 5u);
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
  const auto scores = engine->Score(text, {.top = 5});
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
  const absl::Status visited =
      runner->VisitLogits(0, text.size() - 1, [&](size_t i, absl::Span<const float> logits) {
        double sum = 0;
        for (float logit : logits) sum += std::exp(static_cast<double>(logit));
        expected.push_back(logits[static_cast<size_t>(text[i + 1])] - std::log(sum));
      });
  EXPECT_TRUE(visited.ok()) << visited;

  const auto engine = Create({.prefill_chunk = 20, .kv_tokens = 240, .kv_block_tokens = 4});
  std::vector<Collector> collectors(4);
  for (uint32_t i = 0; i < collectors.size(); ++i)
    ASSERT_TRUE(engine->Submit(Request(20, i, 80), collectors[i].callback()).ok());
  const auto scores = engine->Score(text, {.top = 2});
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
  EXPECT_TRUE(engine->Score({5}, {})->empty());
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
      {"min_tokens: ", [](GenerationRequest& r) { r.min_tokens = 6; }},
      {"min_tokens: ",
       [](GenerationRequest& r) {
         r.max_tokens = 0;
         r.min_tokens = 120;
       }},
      {"stop: ", [](GenerationRequest& r) { r.stop = {""}; }},
      {"stop: ", [](GenerationRequest& r) { r.stop = {"\xC3"}; }},
      {"stop: ", [](GenerationRequest& r) { r.stop.assign(kMaxStopStrings + 1, "x"); }},
      {"stop: ",
       [](GenerationRequest& r) { r.stop = {std::string(kMaxStopStringBytes + 1, 'x')}; }},
      {"stop_tokens: token 300", [](GenerationRequest& r) { r.stop_tokens = {300}; }},
      {"prefix_salt: ",
       [](GenerationRequest& r) { r.prefix_salt = std::string(kMaxSaltBytes + 1, 'x'); }},
      {"client: ",
       [](GenerationRequest& r) { r.standing.client = std::string(kMaxClientBytes + 1, 'x'); }},
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
    return std::string(engine->Score(tokens, {.top = top}).status().message());
  };
  EXPECT_THAT(score({}, 0), StartsWith("tokens: "));
  EXPECT_THAT(score({1, 999}, 0), StartsWith("tokens: token 999"));
  EXPECT_THAT(score(Prompt(130, 1), 0), StartsWith("tokens: 130"));
  EXPECT_THAT(score({1, 2}, kMaxLogprobs + 1), StartsWith("top: "));
  const Standing nameless = {.client = std::string(kMaxClientBytes + 1, 'x')};
  EXPECT_THAT(std::string(engine->Score({1, 2}, {.standing = nameless}).status().message()),
              StartsWith("client: "));
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
  EXPECT_GT(stats.prefill_time, absl::ZeroDuration());
  EXPECT_GT(stats.decode_time, absl::ZeroDuration());
}

}  // namespace
}  // namespace quantloom
