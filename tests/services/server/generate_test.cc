// What Generate, Score, Tokenize and Detokenize answer.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/services/server/server_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Prompt(int i) {
  std::string prompt = absl::StrCat("The rain in number ", i);
  for (int word = 0; word < 40 * (i % 5); ++word) prompt += absl::StrCat(" w", word * i);
  return prompt;
}

class GenerateTest : public ServerTest {
 protected:
  // Texts of prompts 0 .. count-1, each generated alone.
  std::vector<std::string> TextsAlone(int count, uint32_t tokens) {
    std::vector<std::string> texts;
    for (int i = 0; i < count; ++i) {
      const Generated generated = Generate(Request(Prompt(i), tokens));
      EXPECT_TRUE(generated.status.ok()) << generated.status;
      EXPECT_EQ(generated.tokens.size(), tokens);
      texts.push_back(generated.text);
    }
    return texts;
  }
};

TEST_F(GenerateTest, GreedyText_IsTheSameAloneAndWithOthers) {
  StartServer();
  const std::vector<std::string> alone = TextsAlone(10, 60);
  std::vector<std::string> together(alone.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < alone.size(); ++i) {
    clients.emplace_back([&, i] { together[i] = Generate(Request(Prompt(i), 60)).text; });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(together, alone);
  ExpectIdle();
}

TEST_F(GenerateTest, GreedyText_IsTheSameForAnyPrefillChunkAndStepSize) {
  StartServer();
  const std::vector<std::string> expected = TextsAlone(5, 40);
  struct Limits {
    uint32_t chunk, step, running;
    int threads;
  };
  for (const Limits& limits : {Limits{1, 4, 2, 1}, Limits{7, 33, 3, 2}, Limits{512, 2048, 16, 3}}) {
    SCOPED_TRACE(limits.chunk);
    StopServer();
    options_.engine.prefill_chunk = limits.chunk;
    options_.engine.step_tokens = limits.step;
    options_.engine.max_running = limits.running;
    options_.threads = limits.threads;
    StartServer();
    EXPECT_EQ(TextsAlone(5, 40), expected);
  }
}

TEST_F(GenerateTest, Usage_CountsTokensAndTimes) {
  StartServer();
  v1::GenerateRequest request = Request("", 25);
  for (int i = 1; i <= 10; ++i) request.mutable_prompt_tokens()->add_ids(i);
  const Generated generated = Generate(request);
  ASSERT_TRUE(generated.status.ok()) << generated.status;
  EXPECT_EQ(generated.tokens.size(), 25u);
  EXPECT_EQ(generated.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(generated.last.usage().prompt_tokens(), 10u);
  EXPECT_EQ(generated.last.usage().generated_tokens(), 25u);
  EXPECT_TRUE(generated.last.usage().has_queue_time());
  EXPECT_TRUE(generated.last.usage().has_prefill_time());
}

TEST_F(GenerateTest, ASharedPrompt_IsComputedOnce) {
  StartServer();
  v1::GenerateRequest request = Request("", 5);
  for (int i = 0; i < 1000; ++i) request.mutable_prompt_tokens()->add_ids(1 + i % 200);
  const Generated first = Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_EQ(first.last.usage().cached_tokens(), 0u);
  const uint64_t computed = Stats().prompt_tokens;
  for (const int32_t id : {5, 6, 7}) request.mutable_prompt_tokens()->add_ids(id);
  const Generated second = Generate(request);
  EXPECT_EQ(second.last.usage().prompt_tokens(), 1003u);
  EXPECT_EQ(second.last.usage().cached_tokens(), 1000u);
  EXPECT_EQ(Stats().prompt_tokens, computed + 3);

  request.mutable_prefix_cache()->set_disable(true);
  const Generated unshared = Generate(request);
  EXPECT_EQ(unshared.last.usage().cached_tokens(), 0u);
  EXPECT_EQ(unshared.ids(), second.ids());
  request.mutable_prefix_cache()->set_disable(false);
  request.mutable_prefix_cache()->set_salt("salt");
  const Generated salted = Generate(request);
  EXPECT_EQ(salted.last.usage().cached_tokens(), 0u);
  EXPECT_EQ(salted.ids(), second.ids());
}

TEST_F(GenerateTest, Echo_IsThePromptOnTheFirstResponse) {
  StartServer();
  v1::GenerateRequest request = Request("hi <|endoftext|>", 3);
  request.set_echo(true);
  const Generated generated = Generate(request);
  ASSERT_TRUE(generated.status.ok()) << generated.status;
  EXPECT_EQ(generated.first.echo().text(), request.prompt());
  EXPECT_EQ(generated.first.echo().token_ids_size(),
            static_cast<int>(generated.last.usage().prompt_tokens()));
  EXPECT_EQ(generated.echoes, 1);
  EXPECT_EQ(generated.text, Generate(Request("hi <|endoftext|>", 3)).text);
}

TEST_F(GenerateTest, MinTokens_HoldOffTheEnd) {
  StartServer();
  v1::GenerateRequest request = Request(Prompt(1), 10);
  request.set_ignore_eos(false);
  (*request.mutable_sampling()->mutable_logit_bias())[0] = 100;
  EXPECT_EQ(Generate(request).ids().size(), 1u);
  request.set_min_tokens(7);
  const Generated generated = Generate(request);
  EXPECT_EQ(generated.last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(generated.ids().size(), 8u);
}

TEST_F(GenerateTest, AClientsRequests_AreLimitedByName) {
  options_.engine.max_client_requests = 1;
  StartServer();
  v1::GenerateRequest request = Request(Prompt(1), 2000);
  request.set_client("greedy");
  grpc::ClientContext context;
  const auto stream = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  request.set_max_tokens(2);
  EXPECT_EQ(Generate(request).status.code(), absl::StatusCode::kResourceExhausted);
  request.set_client("modest");
  EXPECT_TRUE(Generate(request).status.ok());
  request.clear_client();
  EXPECT_TRUE(Generate(request).status.ok()) << "its address is another client";
  context.TryCancel();
  stream->Finish();
  ExpectIdle();
}

TEST_F(GenerateTest, MaxTokensZero_FillsTheContext) {
  StartServer();
  v1::GenerateRequest request = Request("", 0);
  for (uint32_t i = 0; i < kTinyContext - 20; ++i) request.mutable_prompt_tokens()->add_ids(7);
  const Generated generated = Generate(request);
  ASSERT_TRUE(generated.status.ok()) << generated.status;
  EXPECT_EQ(generated.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(generated.tokens.size(), 20u);
}

TEST_F(GenerateTest, StopText_EndsTheTextBeforeIt) {
  StartServer();
  const Generated whole = Generate(Request(Prompt(1), 60));
  ASSERT_GT(whole.text.size(), 20u);
  // A piece of what will be generated, cut at character boundaries.
  size_t begin = whole.text.size() / 2;
  while (begin > 0 && (whole.text[begin] & 0xC0) == 0x80) --begin;
  size_t end = begin + 4;
  while (end < whole.text.size() && (whole.text[end] & 0xC0) == 0x80) ++end;
  const std::string stop = whole.text.substr(begin, end - begin);
  v1::GenerateRequest request = Request(Prompt(1), 60);
  request.add_stop("never to be seen");
  request.add_stop(stop);
  const Generated stopped = Generate(request);
  ASSERT_TRUE(stopped.status.ok()) << stopped.status;
  EXPECT_EQ(stopped.last.finish_reason(), v1::FINISH_REASON_STOP_SEQUENCE);
  EXPECT_EQ(stopped.last.stop_sequence(), stop);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
}

TEST_F(GenerateTest, StopToken_EndsGeneration) {
  StartServer();
  const Generated whole = Generate(Request(Prompt(2), 40));
  const std::vector<int32_t> ids = whole.ids();
  ASSERT_EQ(ids.size(), 40u);
  v1::GenerateRequest request = Request(Prompt(2), 40);
  request.add_stop_token_ids(ids[20]);
  const Generated stopped = Generate(request);
  const auto first = std::find(ids.begin(), ids.end(), ids[20]) - ids.begin();
  EXPECT_EQ(stopped.last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stopped.ids(), std::vector<int32_t>(ids.begin(), ids.begin() + first + 1));
}

TEST_F(GenerateTest, Seed_GivesTheSameTextAndIsReported) {
  StartServer();
  v1::GenerateRequest request = Request(Prompt(3), 50);
  request.mutable_sampling()->set_temperature(1.5f);
  const Generated first = Generate(request);
  const Generated second = Generate(request);
  ASSERT_TRUE(first.status.ok() && second.status.ok());
  EXPECT_NE(first.last.usage().seed(), second.last.usage().seed());
  EXPECT_NE(first.ids(), second.ids());
  request.mutable_sampling()->set_seed(first.last.usage().seed());
  const Generated again = Generate(request);
  EXPECT_EQ(again.ids(), first.ids());
  EXPECT_EQ(again.text, first.text);
}

TEST_F(GenerateTest, LogitBias_ForcesAToken) {
  StartServer();
  v1::GenerateRequest request = Request(Prompt(1), 5);
  (*request.mutable_sampling()->mutable_logit_bias())[42] = 100;
  EXPECT_THAT(Generate(request).ids(), ElementsAre(42, 42, 42, 42, 42));
}

TEST_F(GenerateTest, Logprobs_AgreeWithScore) {
  StartServer();
  v1::GenerateRequest request = Request("", 12);
  request.set_logprobs(3);
  for (const int32_t id : {5, 80, 7, 33}) request.mutable_prompt_tokens()->add_ids(id);
  const Generated generated = Generate(request);
  ASSERT_EQ(generated.tokens.size(), 12u);

  v1::ScoreRequest score;
  *score.mutable_tokens() = request.prompt_tokens();
  for (const int32_t id : generated.ids()) score.mutable_tokens()->add_ids(id);
  score.set_top(3);
  grpc::ClientContext context;
  v1::ScoreResponse scored;
  const grpc::Status status = generation_->Score(&context, score, &scored);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(scored.tokens_size(), 16);
  EXPECT_FALSE(scored.tokens(0).has_logprob());
  double total = 0;
  for (int i = 1; i < scored.tokens_size(); ++i) total += scored.tokens(i).logprob();
  EXPECT_NEAR(scored.total_logprob(), total, 1e-9);
  for (int i = 0; i < 12; ++i) {
    const v1::GeneratedToken& token = generated.tokens[i];
    const v1::GeneratedToken& other = scored.tokens(4 + i);
    EXPECT_EQ(token.id(), other.id());
    EXPECT_EQ(token.logprob(), other.logprob());
    ASSERT_EQ(token.top_size(), 3);
    EXPECT_EQ(token.top(0).id(), token.id()) << "greedy takes the most likely";
    EXPECT_EQ(token.top(0).logprob(), token.logprob());
    for (int k = 0; k < 3; ++k) EXPECT_EQ(token.top(k).id(), other.top(k).id());
    EXPECT_GE(token.top(0).logprob(), token.top(1).logprob());
    EXPECT_FALSE(token.top(0).token().empty());
  }
}

TEST_F(GenerateTest, Chat_IsThePromptThatItsTemplateRenders) {
  StartServer();
  v1::GenerateRequest chat = Request("", 20);
  v1::ChatMessage& system = *chat.mutable_chat()->add_messages();
  system.set_role("system");
  system.set_content("be brief");
  v1::ChatMessage& user = *chat.mutable_chat()->add_messages();
  user.set_role("user");
  user.set_content("hello");
  const Generated answer = Generate(chat);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, Generate(Request("system: be brief\nuser: hello\nassistant: ", 20)).text);
  chat.mutable_chat()->set_omit_generation_prompt(true);
  EXPECT_EQ(Generate(chat).text, Generate(Request("system: be brief\nuser: hello\n", 20)).text);
}

TEST_F(GenerateTest, EmptyModelName_MeansTheOnlyLoadedOne) {
  WritePackedModel(root_.path(), "second", /*seed=*/2);
  StartServer();
  v1::GenerateRequest named = Request("the rain", 10);
  named.set_model("tiny");
  EXPECT_EQ(Generate(Request("the rain", 10)).text, Generate(named).text);
  v1::LoadModelRequest load;
  load.set_name("second");
  grpc::ClientContext context;
  v1::Model model;
  ASSERT_TRUE(models_->LoadModel(&context, load, &model).ok());
  EXPECT_EQ(Generate(Request("the rain", 10)).status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Generate(named).status.ok());
}

TEST_F(GenerateTest, TokenizeAndDetokenize_AreInverse) {
  StartServer();
  v1::TokenizeRequest request;
  request.set_text("the rain in thé <|endoftext|> 雨\n");
  grpc::ClientContext tokenize_context;
  v1::TokenizeResponse tokenized;
  ASSERT_TRUE(generation_->Tokenize(&tokenize_context, request, &tokenized).ok());
  std::string bytes;
  for (const std::string& token : tokenized.tokens()) bytes += token;
  EXPECT_EQ(bytes, request.text());
  v1::DetokenizeRequest back;
  *back.mutable_ids() = tokenized.ids();
  grpc::ClientContext detokenize_context;
  v1::DetokenizeResponse detokenized;
  ASSERT_TRUE(generation_->Detokenize(&detokenize_context, back, &detokenized).ok());
  EXPECT_EQ(detokenized.text(), request.text());

  request.set_parse_special(true);
  grpc::ClientContext special_context;
  v1::TokenizeResponse special;
  ASSERT_TRUE(generation_->Tokenize(&special_context, request, &special).ok());
  EXPECT_EQ(std::count(special.ids().begin(), special.ids().end(), 0), 1);
  EXPECT_EQ(std::count(tokenized.ids().begin(), tokenized.ids().end(), 0), 0);
}

TEST_F(GenerateTest, Detokenize_ReplacesBrokenCharacters) {
  StartServer();
  v1::DetokenizeRequest request;
  request.add_ids(1 + 'a');
  request.add_ids(1 + 0xC3);  // the first byte of two
  request.add_ids(1 + 'b');
  grpc::ClientContext context;
  v1::DetokenizeResponse response;
  ASSERT_TRUE(generation_->Detokenize(&context, request, &response).ok());
  EXPECT_EQ(response.text(),
            "a\xEF\xBF\xBD"
            "b");
}

TEST_F(GenerateTest, Score_EndsAtItsDeadline) {
  StartServer();
  v1::ScoreRequest request;
  for (uint32_t i = 0; i < kTinyContext; ++i) request.mutable_tokens()->add_ids(1 + i % 200);
  request.set_top(20);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(5)));
  v1::ScoreResponse response;
  EXPECT_EQ(generation_->Score(&context, request, &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  ExpectIdle();
}

// A packed model of the demonstration model, when there is one.
TEST_F(GenerateTest, RealModel_AnswersTheSameAloneAndWithOthers) {
  const char* path = std::getenv("QUANTLOOM_TEST_PACKED_MODEL");
  if (path == nullptr) {
    GTEST_SKIP() << "QUANTLOOM_TEST_PACKED_MODEL names no packed model directory";
  }
  const std::filesystem::path directory = std::filesystem::canonical(path);
  options_.model_root = directory.parent_path();
  options_.load = {directory.filename()};
  StartServer();
  const auto ask = [&](const std::string& question) {
    v1::GenerateRequest request;
    request.set_max_tokens(24);
    v1::ChatMessage& message = *request.mutable_chat()->add_messages();
    message.set_role("user");
    message.set_content(question);
    return Generate(request);
  };
  const std::vector<std::string> questions = {"What is the capital of France?",
                                              "Write a sentence about rain.", "What is 2 + 2?"};
  std::vector<std::string> alone;
  for (const std::string& question : questions) {
    const Generated answer = ask(question);
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    alone.push_back(answer.text);
  }
  std::vector<std::string> together(questions.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < questions.size(); ++i) {
    clients.emplace_back([&, i] { together[i] = ask(questions[i]).text; });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(together, alone);
  EXPECT_FALSE(alone[0].empty());
}

}  // namespace
}  // namespace quantloom::testing
