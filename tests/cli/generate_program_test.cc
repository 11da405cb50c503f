// generate, score, tokenize, detokenize
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/cli/scripted_services.h"

namespace quantloom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using Writer = grpc::ServerWriter<v1::GenerateResponse>;

v1::GenerateResponse Piece(const std::string& text, int32_t id) {
  v1::GenerateResponse response;
  response.set_text(text);
  response.add_tokens()->set_id(id);
  return response;
}

v1::GenerateResponse Last() {
  v1::GenerateResponse response;
  response.set_finish_reason(v1::FINISH_REASON_STOP);
  response.mutable_usage()->set_prompt_tokens(3);
  response.mutable_usage()->set_generated_tokens(2);
  response.mutable_usage()->set_seed(77);
  return response;
}

Script Answer(v1::GenerateRequest* seen = nullptr) {
  return {.generate = [seen](auto&, const auto& request, Writer& writer) {
    if (seen != nullptr) *seen = request;
    writer.Write(Piece(" blue", 5));
    writer.Write(Piece(" sky", 6));
    writer.Write(Last());
    return grpc::Status::OK;
  }};
}

TEST(GenerateProgramTest, Text_AppearsAsItIsGenerated) {
  std::atomic<bool> go_on = false;
  const ScriptedServer server({.generate = [&](auto&, const auto&, Writer& writer) {
    writer.Write(Piece("first", 1));
    while (!go_on) std::this_thread::yield();
    writer.Write(Piece(" second", 2));
    writer.Write(Last());
    return grpc::Status::OK;
  }});
  Program program({"generate", "x", "--server", server.address()});
  // The server says no more before the first piece has come out at this end.
  EXPECT_TRUE(program.AwaitOutput("first"));
  EXPECT_EQ(program.output(), "first");
  go_on = true;
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_EQ(program.output(), "first second\n");
  EXPECT_EQ(program.error(), "");
}

TEST(GenerateProgramTest, AnEmptyOptionLeavesTheNextArgumentAlone) {
  v1::GenerateRequest request;
  const ScriptedServer server(Answer(&request));
  const Outcome outcome = RunProgram({"generate", "--server", server.address(),
                                      "--model=", "the sky is", "--stop=", "--max-tokens=7"});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(request.model(), "");
  EXPECT_EQ(request.prompt(), "the sky is");
  EXPECT_THAT(request.stop(), ElementsAre(""));
  EXPECT_EQ(request.max_tokens(), 7u);

  // After `--` nothing is an option.
  EXPECT_EQ(RunProgram({"generate", "--server", server.address(), "--", "--model="}).status, 0);
  EXPECT_EQ(request.prompt(), "--model=");
}

TEST(GenerateProgramTest, Options_BecomeTheRequest) {
  v1::GenerateRequest request;
  const ScriptedServer server(Answer(&request));
  ASSERT_EQ(RunProgram({"generate",
                        "--server",
                        server.address(),
                        "--model",
                        "m",
                        "--max-tokens",
                        "9",
                        "--temperature",
                        "0.5",
                        "--top-k",
                        "40",
                        "--top-p",
                        "0.75",
                        "--min-p",
                        "0.25",
                        "--repetition-penalty",
                        "1.5",
                        "--presence-penalty",
                        "-0.5",
                        "--frequency-penalty",
                        "0.125",
                        "--seed",
                        "18446744073709551615",
                        "--logit-bias",
                        "5=-2.5",
                        "--logit-bias",
                        "7=1",
                        "--stop",
                        "\n",
                        "--stop",
                        "END",
                        "--stop-token",
                        "3",
                        "--ignore-eos",
                        "--min-tokens",
                        "2",
                        "--echo",
                        "--priority",
                        "high",
                        "--client",
                        "alice",
                        "--no-prefix-cache",
                        "--prefix-salt",
                        "s",
                        "--logprobs",
                        "4",
                        "the prompt"})
                .status,
            0);
  v1::GenerateRequest expected;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
      model: "m" prompt: "the prompt" max_tokens: 9 stop: "\n" stop: "END" stop_token_ids: 3
      ignore_eos: true logprobs: 4 min_tokens: 2 echo: true priority: PRIORITY_HIGH
      client: "alice" prefix_cache { disable: true salt: "s" }
      sampling { temperature: 0.5 top_k: 40 top_p: 0.75 min_p: 0.25 repetition_penalty: 1.5
                 presence_penalty: -0.5 frequency_penalty: 0.125 seed: 18446744073709551615
                 logit_bias { key: 5 value: -2.5 } logit_bias { key: 7 value: 1 } })",
                                                            &expected));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(request, expected))
      << request.DebugString();
}

TEST(GenerateProgramTest, Defaults_LeaveSamplingToTheServer) {
  v1::GenerateRequest request;
  const ScriptedServer server(Answer(&request));
  RunProgram({"generate", "x", "--server", server.address()});
  EXPECT_FALSE(request.has_sampling());
  EXPECT_EQ(request.max_tokens(), 256u);
}

TEST(GenerateProgramTest, Prompt_MayComeFromStandardInput) {
  v1::GenerateRequest request;
  const ScriptedServer server(Answer(&request));
  const std::vector<std::string> implied = {"generate", "--server", server.address()};
  const std::vector<std::string> named = {"generate", "-", "--server", server.address()};
  for (const std::vector<std::string>& arguments : {implied, named}) {
    EXPECT_EQ(RunProgram(arguments, {.input = "two\nlines\n"}).status, 0);
    EXPECT_EQ(request.prompt(), "two\nlines");
  }
  EXPECT_EQ(RunProgram({"generate", "--server", server.address()}, {.input = "\xFF"}).status, 1);
  EXPECT_EQ(RunProgram({"generate", "--server", server.address()}, {.terminal = true}).status, 2);
}

TEST(GenerateProgramTest, ChatAndTokens_AreOtherInputs) {
  v1::GenerateRequest request;
  const ScriptedServer server(Answer(&request));
  RunProgram({"generate", "--server", server.address(), "--system", "Be brief.", "Why?"});
  ASSERT_EQ(request.chat().messages_size(), 2);
  EXPECT_EQ(request.chat().messages(0).role(), "system");
  EXPECT_EQ(request.chat().messages(1).role(), "user");
  EXPECT_EQ(request.chat().messages(1).content(), "Why?");
  RunProgram({"generate", "--server", server.address(), "--prompt-tokens", "1,2,30"});
  EXPECT_THAT(request.prompt_tokens().ids(), ElementsAre(1, 2, 30));
}

TEST(GenerateProgramTest, Echo_ComesBeforeTheAnswer) {
  const ScriptedServer server({.generate = [](auto&, const auto&, Writer& writer) {
    v1::GenerateResponse first = Piece(" blue", 5);
    first.mutable_echo()->set_text("The sky is");
    first.mutable_echo()->add_token_ids(8);
    writer.Write(first);
    v1::GenerateResponse last = Last();
    last.mutable_usage()->set_cached_tokens(2);
    writer.Write(last);
    return grpc::Status::OK;
  }});
  const Outcome text =
      RunProgram({"generate", "--echo", "--stats", "x", "--server", server.address()});
  EXPECT_EQ(text.output, "The sky is blue\n");
  EXPECT_THAT(text.error, HasSubstr("3 prompt tokens (2 cached), 1 generated"));
  const Outcome json =
      RunProgram({"generate", "--echo", "--json", "x", "--server", server.address()});
  const auto object = nlohmann::json::parse(json.output);
  EXPECT_EQ(object["echo"], nlohmann::json::parse(R"({"text": "The sky is", "token_ids": [8]})"));
  EXPECT_EQ(object["text"], " blue");
}

TEST(GenerateProgramTest, Statistics_GoToStandardError) {
  const ScriptedServer server(Answer());
  const Outcome outcome = RunProgram({"generate", "--stats", "x", "--server", server.address()});
  EXPECT_EQ(outcome.output, " blue sky\n");
  EXPECT_THAT(outcome.error,
              MatchesRegex("3 prompt tokens, 2 generated(, [0-9.]+ tokens/s)?, first token after "
                           "[0-9.]+s, stop\n"));
}

TEST(GenerateProgramTest, Json_IsOneObject) {
  const ScriptedServer server({.generate = [](auto&, const auto&, Writer& writer) {
    v1::GenerateResponse piece = Piece("\xC3\xB6", 5);
    piece.mutable_tokens(0)->set_logprob(-0.5f);
    auto* top = piece.mutable_tokens(0)->add_top();
    top->set_id(5);
    top->set_logprob(-0.5f);
    top->set_token("\xC3");
    writer.Write(piece);
    v1::GenerateResponse last = Last();
    last.set_finish_reason(v1::FINISH_REASON_STOP_SEQUENCE);
    last.set_stop_sequence("END");
    writer.Write(last);
    return grpc::Status::OK;
  }});
  const Outcome outcome = RunProgram({"generate", "--json", "x", "--server", server.address()});
  auto json = nlohmann::json::parse(outcome.output);
  EXPECT_TRUE(json["tokens_per_second"].is_number());
  EXPECT_GT(json["time_to_first_token_seconds"], 0);
  json.erase("tokens_per_second");
  json.erase("time_to_first_token_seconds");
  EXPECT_EQ(json, nlohmann::json::parse(R"({
      "text": "ö", "finish_reason": "stop_sequence", "stop_sequence": "END", "prompt_tokens": 3,
      "cached_tokens": 0, "generated_tokens": 1, "seed": "77",
      "tokens": [{"id": 5, "logprob": -0.5, "top": [{"id": 5, "logprob": -0.5, "token": "ww=="}]}]})"));
}

TEST(GenerateProgramTest, Interrupt_EndsTheCallAndTheProgram) {
  std::atomic<bool> cancelled = false;
  const ScriptedServer server({.generate = [&](auto& context, const auto&, Writer& writer) {
    writer.Write(Piece("begun", 1));
    AwaitCancellation(context);
    cancelled = true;
    return grpc::Status::CANCELLED;
  }});
  Program program({"generate", "x", "--server", server.address()});
  ASSERT_TRUE(program.AwaitOutput("begun"));
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_EQ(program.output(), "begun\n");
  while (!cancelled) std::this_thread::yield();
}

TEST(GenerateProgramTest, ErrorInTheMiddle_KeepsTheTextAndFails) {
  const ScriptedServer server({.generate = [](auto&, const auto&, Writer& writer) {
    writer.Write(Piece("begun", 1));
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
  }});
  const Outcome outcome =
      RunProgram({"generate", "x", "--retry", "3", "--server", server.address()});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_EQ(outcome.output, "begun\n");
}

TEST(GenerateProgramTest, Terminal_IsNotSteeredByTheModel) {
  const ScriptedServer server({.generate = [](auto&, const auto&, Writer& writer) {
    writer.Write(Piece("a\x1b[2Jb", 1));
    writer.Write(Last());
    return grpc::Status::OK;
  }});
  const std::vector<std::string> arguments = {"generate", "x", "--server", server.address()};
  EXPECT_EQ(RunProgram(arguments, {.terminal = true}).output, "a[2Jb\n");
  EXPECT_EQ(RunProgram(arguments).output, "a\x1b[2Jb\n");  // a pipe gets the text as it is
}

// Tokens 0, 1, 2, ... over all calls, one for each byte; a token's log-probability is -(id % 7 +
// 1).
class Scorer {
 public:
  Script script() {
    return {.score =
                [this](auto&, const auto& request, v1::ScoreResponse* response) {
                  requests.push_back(request);
                  for (int i = 0; i < request.tokens().ids_size(); ++i) {
                    auto* token = response->add_tokens();
                    token->set_id(request.tokens().ids(i));
                    if (i > 0) token->set_logprob(-static_cast<float>(token->id() % 7 + 1));
                  }
                  return grpc::Status::OK;
                },
            .tokenize =
                [this](auto&, const auto& request, v1::TokenizeResponse* response) {
                  // BOS belongs to the text's beginning alone.
                  EXPECT_EQ(request.add_bos(), tokenized.empty());
                  for (size_t i = 0; i < request.text().size(); ++i) {
                    response->add_ids(static_cast<int32_t>(tokenized.size() + i));
                  }
                  tokenized += request.text();
                  return grpc::Status::OK;
                }};
  }

  std::vector<v1::ScoreRequest> requests;
  std::string tokenized;
};

std::string TextFile(size_t bytes) {
  // Of this process, since tests run side by side.
  const std::string path = absl::StrCat(testing::TempDir(), "score", getpid(), ".txt");
  std::ofstream(path) << std::string(bytes, 'x');
  return path;
}

TEST(ScoreProgramTest, Perplexity_IsOfTheSecondHalvesOfWindows) {
  Scorer scorer;
  const ScriptedServer server(scorer.script());
  const Outcome outcome =
      RunProgram({"score", TextFile(1100), "--json", "-m", "m", "--server", server.address()});
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  ASSERT_EQ(scorer.requests.size(), 2u);
  EXPECT_EQ(scorer.requests[0].model(), "m");
  EXPECT_EQ(scorer.requests[1].tokens().ids(0), 512);
  EXPECT_EQ(scorer.requests[1].tokens().ids_size(), 512);
  double sum = 0;
  for (int window : {0, 512}) {
    for (int id = window + 256; id < window + 512; ++id) sum += id % 7 + 1;
  }
  const auto json = nlohmann::json::parse(outcome.output);
  EXPECT_NEAR(json["perplexity"], std::exp(sum / 512), 1e-9);
  EXPECT_EQ(json["scored_tokens"], 512);
  EXPECT_EQ(json["windows"], 2);
}

TEST(ScoreProgramTest, Options_ChooseWindows) {
  Scorer scorer;
  const ScriptedServer server(scorer.script());
  const Outcome outcome = RunProgram(
      {"score", "-", "--windows", "3", "--window-tokens", "10", "--server", server.address()},
      {.input = std::string(99, 'x')});
  EXPECT_EQ(scorer.requests.size(), 3u);
  EXPECT_THAT(outcome.output, HasSubstr("15 tokens: the second halves of 3 windows of 10\n"));
}

TEST(ScoreProgramTest, LongText_IsTokenizedInPieces) {
  Scorer scorer;
  const ScriptedServer server(scorer.script());
  std::string text;
  while (text.size() < 600'000) text += "a line of text\n";
  const Outcome outcome =
      RunProgram({"score", "-", "--window-tokens", "60000", "--json", "--server", server.address()},
                 {.input = text});
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(scorer.tokenized, text);
  EXPECT_EQ(scorer.requests.size(), 10u);
  EXPECT_EQ(scorer.requests[9].tokens().ids(0), 540'000);
}

TEST(ScoreProgramTest, ShortText_IsRefused) {
  Scorer scorer;
  const ScriptedServer server(scorer.script());
  const Outcome outcome = RunProgram({"score", TextFile(100), "--server", server.address()});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.error, HasSubstr("100 tokens"));
}

TEST(ScoreProgramTest, Terminal_ShowsProgress) {
  Scorer scorer;
  const ScriptedServer server(scorer.script());
  const Outcome outcome =
      RunProgram({"score", TextFile(1100), "--server", server.address()}, {.terminal = true});
  EXPECT_THAT(outcome.output, HasSubstr("\rscoring 0/2 "));
  EXPECT_THAT(outcome.output, HasSubstr("\r\x1b[Ktext"));
}

Script Tokenizer() {
  return {.tokenize =
              [](auto&, const auto& request, v1::TokenizeResponse* response) {
                for (const char c : request.text()) {
                  response->add_ids(static_cast<unsigned char>(c));
                  response->add_tokens(std::string(1, c));
                }
                return grpc::Status::OK;
              },
          .detokenize =
              [](auto&, const auto& request, v1::DetokenizeResponse* response) {
                std::string text;
                for (const int32_t id : request.ids()) text += static_cast<char>(id);
                response->set_text(text);
                return grpc::Status::OK;
              }};
}

TEST(TokenizeProgramTest, Output_FeedsDetokenize) {
  const ScriptedServer server(Tokenizer());
  const Outcome ids = RunProgram({"tokenize", "Hi there", "--server", server.address()});
  EXPECT_EQ(ids.output, "72 105 32 116 104 101 114 101\n");
  EXPECT_EQ(RunProgram({"detokenize", "--server", server.address()}, {.input = ids.output}).output,
            "Hi there\n");
  EXPECT_EQ(RunProgram({"detokenize", "72,105", "33", "--server", server.address()}).output,
            "Hi!\n");
  EXPECT_EQ(RunProgram({"detokenize", "x", "--server", server.address()}).status, 1);
}

TEST(TokenizeProgramTest, Tokens_AreShownWithTheirBytes) {
  const ScriptedServer server(Tokenizer());
  EXPECT_EQ(
      RunProgram({"tokenize", "--tokens", "a\n\xC3\xB6", "--server", server.address()}).output,
      " ID  TOKEN\n"
      " 97  \"a\"\n"
      " 10  \"\\n\"\n"
      "195  \"\\xc3\"\n"
      "182  \"\\xb6\"\n");
  const auto json = nlohmann::json::parse(
      RunProgram({"tokenize", "--json", "a", "--server", server.address()}).output);
  EXPECT_EQ(json, nlohmann::json::parse(R"({"ids": [97], "tokens": ["YQ=="]})"));
}

}  // namespace
}  // namespace quantloom::cli
