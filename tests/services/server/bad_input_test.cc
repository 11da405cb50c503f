// Every wrong request ends in its status code, naming the field, and leaves the server as it was.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "services/common/rpc_status.h"
#include "tests/services/common/call_method.h"
#include "tests/services/server/server_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct BadGenerate {
  const char* name;
  std::function<void(v1::GenerateRequest&)> spoil;
  absl::StatusCode code;
  const char* field;    // of the BadRequest detail
  const char* message;  // part of it
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

v1::SamplingParameters& Sampling(v1::GenerateRequest& request) {
  return *request.mutable_sampling();
}

v1::ChatMessage& Message(v1::GenerateRequest& request, const char* role) {
  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role(role);
  message.set_content("hi");
  return message;
}

std::vector<BadGenerate> BadGenerates() {
  using R = v1::GenerateRequest&;
  return {
      {"NoInput", [](R r) { r.clear_input(); }, kInvalid, "input", "must be set"},
      {"EmptyPrompt", [](R r) { r.set_prompt(""); }, kInvalid, "prompt", "empty"},
      {"PromptOverContext",
       [](R r) {
         for (uint32_t i = 0; i < kTinyContext; ++i) r.mutable_prompt()->append("z ");
       },
       kInvalid, "prompt", "4095"},
      {"PromptOverByteLimit", [](R r) { r.set_prompt(std::string(10 << 20, 'a')); }, kInvalid,
       "prompt", "10485760 bytes"},
      {"NoTokens", [](R r) { r.mutable_prompt_tokens(); }, kInvalid, "prompt_tokens.ids", "empty"},
      {"NegativeToken", [](R r) { r.mutable_prompt_tokens()->add_ids(-1); }, kInvalid,
       "prompt_tokens.ids[0]", "-1"},
      {"TokenOutsideVocabulary",
       [](R r) {
         r.mutable_prompt_tokens()->add_ids(5);
         r.mutable_prompt_tokens()->add_ids(kTinyVocab);
       },
       kInvalid, "prompt_tokens.ids[1]", "272"},
      {"TokensOverContext",
       [](R r) {
         for (uint32_t i = 0; i <= kTinyContext; ++i) r.mutable_prompt_tokens()->add_ids(5);
       },
       kInvalid, "prompt_tokens", "4097"},
      {"EmptyChat", [](R r) { r.mutable_chat(); }, kInvalid, "chat.messages", "empty"},
      {"UnknownRole",
       [](R r) {
         Message(r, "user");
         Message(r, "tool");
       },
       kInvalid, "chat.messages[1].role", "user"},
      {"NanTemperature", [](R r) { Sampling(r).set_temperature(kNan); }, kInvalid,
       "sampling.temperature", "nan"},
      {"NegativeTemperature", [](R r) { Sampling(r).set_temperature(-0.5f); }, kInvalid,
       "sampling.temperature", "-0.5"},
      {"InfiniteTemperature", [](R r) { Sampling(r).set_temperature(kInfinity); }, kInvalid,
       "sampling.temperature", "100"},
      {"HotTemperature", [](R r) { Sampling(r).set_temperature(100.5f); }, kInvalid,
       "sampling.temperature", "100"},
      {"NegativeTopK", [](R r) { Sampling(r).set_top_k(-1); }, kInvalid, "sampling.top_k", "-1"},
      {"ZeroTopP", [](R r) { Sampling(r).set_top_p(0); }, kInvalid, "sampling.top_p", "(0, 1]"},
      {"TopPOverOne", [](R r) { Sampling(r).set_top_p(1.5f); }, kInvalid, "sampling.top_p", "1.5"},
      {"NanTopP", [](R r) { Sampling(r).set_top_p(kNan); }, kInvalid, "sampling.top_p", "nan"},
      {"NegativeMinP", [](R r) { Sampling(r).set_min_p(-0.1f); }, kInvalid, "sampling.min_p",
       "-0.1"},
      {"NanMinP", [](R r) { Sampling(r).set_min_p(kNan); }, kInvalid, "sampling.min_p", "nan"},
      {"ZeroRepetitionPenalty", [](R r) { Sampling(r).set_repetition_penalty(0); }, kInvalid,
       "sampling.repetition_penalty", "0"},
      {"LargeRepetitionPenalty", [](R r) { Sampling(r).set_repetition_penalty(11); }, kInvalid,
       "sampling.repetition_penalty", "10"},
      {"PresencePenalty", [](R r) { Sampling(r).set_presence_penalty(2.5f); }, kInvalid,
       "sampling.presence_penalty", "2.5"},
      {"FrequencyPenalty", [](R r) { Sampling(r).set_frequency_penalty(kNan); }, kInvalid,
       "sampling.frequency_penalty", "nan"},
      {"BiasOutsideVocabulary", [](R r) { (*Sampling(r).mutable_logit_bias())[kTinyVocab] = 1; },
       kInvalid, "sampling.logit_bias", "272"},
      {"NegativeBiasId", [](R r) { (*Sampling(r).mutable_logit_bias())[-3] = 1; }, kInvalid,
       "sampling.logit_bias", "-3"},
      {"LargeBias", [](R r) { (*Sampling(r).mutable_logit_bias())[3] = 101; }, kInvalid,
       "sampling.logit_bias", "101"},
      {"NanBias", [](R r) { (*Sampling(r).mutable_logit_bias())[3] = kNan; }, kInvalid,
       "sampling.logit_bias", "nan"},
      {"TooManyBiases",
       [](R r) {
         for (int i = 0; i <= 1024; ++i) (*Sampling(r).mutable_logit_bias())[i] = 1;
       },
       kInvalid, "sampling.logit_bias", "1024"},
      {"MinTokensOverMaxTokens",
       [](R r) {
         r.set_max_tokens(5);
         r.set_min_tokens(6);
       },
       kInvalid, "min_tokens", "6"},
      {"MinTokensOverContext",
       [](R r) {
         r.set_max_tokens(0);
         r.set_min_tokens(kTinyContext);
       },
       kInvalid, "min_tokens", "4096"},
      {"UnknownPriority", [](R r) { r.set_priority(static_cast<v1::Priority>(9)); }, kInvalid,
       "priority", "9"},
      {"LongClient", [](R r) { r.set_client(std::string(257, 'c')); }, kInvalid, "client", "257"},
      {"LongSalt", [](R r) { r.mutable_prefix_cache()->set_salt(std::string(257, 's')); }, kInvalid,
       "prefix_cache.salt", "257"},
      {"TooManyStops",
       [](R r) {
         for (int i = 0; i < 17; ++i) r.add_stop(std::string(1, 'x'));
       },
       kInvalid, "stop", "17"},
      {"EmptyStop",
       [](R r) {
         r.add_stop(std::string(1, 'x'));
         r.add_stop(std::string());
       },
       kInvalid, "stop[1]", "0 bytes"},
      {"LongStop", [](R r) { r.add_stop(std::string(257, 'x')); }, kInvalid, "stop[0]", "257"},
      {"TooManyStopTokens",
       [](R r) {
         for (int i = 0; i < 65; ++i) r.add_stop_token_ids(1);
       },
       kInvalid, "stop_token_ids", "65"},
      {"StopTokenOutsideVocabulary", [](R r) { r.add_stop_token_ids(1 << 30); }, kInvalid,
       "stop_token_ids[0]", "1073741824"},
      {"TooManyLogprobs", [](R r) { r.set_logprobs(21); }, kInvalid, "logprobs", "20"},
      {"UnknownModel", [](R r) { r.set_model("other"); }, absl::StatusCode::kNotFound, "model",
       "other"},
      {"ModelPath", [](R r) { r.set_model("../tiny"); }, kInvalid, "model", "../tiny"},
      {"HiddenModel", [](R r) { r.set_model(".tiny"); }, kInvalid, "model", ".tiny"},
      {"ModelNotLoaded", [](R r) { r.set_model("other-seed"); },
       absl::StatusCode::kFailedPrecondition, "", "not loaded"},
  };
}

class BadInputTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    WritePackedModel(root_.path(), "other-seed", /*seed=*/2);
    StartServer();
  }
};

TEST_F(BadInputTest, Generate_NamesTheWrongField) {
  const Generated before = Generate(Request("the rain", 8));
  ASSERT_TRUE(before.status.ok()) << before.status;
  for (const BadGenerate& bad : BadGenerates()) {
    SCOPED_TRACE(bad.name);
    v1::GenerateRequest request = Request("the rain", 8);
    bad.spoil(request);
    const Generated generated = Generate(request);
    EXPECT_EQ(generated.status.code(), bad.code) << generated.status;
    EXPECT_EQ(ViolatedField(generated.status), bad.field);
    EXPECT_THAT(std::string(generated.status.message()), HasSubstr(bad.message));
    EXPECT_EQ(generated.responses, 0);
  }
  const Generated after = Generate(Request("the rain", 8));
  EXPECT_TRUE(after.status.ok()) << after.status;
  EXPECT_EQ(after.text, before.text);
  ExpectIdle();
}

struct BadBytes {
  const char* method;
  std::string bytes;
  const char* field;
};

TEST_F(BadInputTest, TextThatIsNotUtf8_IsNamed) {
  const std::string broken =
      "\x04"
      "a\xC3(b";  // a length, then text with a broken character
  const std::vector<BadBytes> cases = {
      {"/quantloom.v1.GenerationService/Generate", absl::StrCat("\x12", broken), "prompt"},
      {"/quantloom.v1.GenerationService/Generate", absl::StrCat("\x3A", broken), "stop"},
      {"/quantloom.v1.GenerationService/Generate", absl::StrCat("\x22\x08\x0A\x06\x12", broken),
       "chat.messages.content"},
      {"/quantloom.v1.GenerationService/Score", absl::StrCat("\x12", broken), "text"},
      {"/quantloom.v1.GenerationService/Tokenize", absl::StrCat("\x12", broken), "text"},
      {"/quantloom.v1.GenerationService/Detokenize", absl::StrCat("\x0A", broken), "model"},
      {"/quantloom.v1.ModelService/GetModel", absl::StrCat("\x0A", broken), "name"},
      {"/quantloom.v1.ModelService/LoadModel", absl::StrCat("\x0A", broken), "name"},
      {"/quantloom.v1.ModelService/UnloadModel", absl::StrCat("\x0A", broken), "name"},
  };
  for (const BadBytes& bad : cases) {
    SCOPED_TRACE(absl::StrCat(bad.method, " ", bad.field));
    const absl::Status status = FromGrpcStatus(CallMethod(channel_, bad.method, bad.bytes));
    EXPECT_EQ(status.code(), kInvalid) << status;
    EXPECT_EQ(ViolatedField(status), bad.field);
    EXPECT_THAT(std::string(status.message()), HasSubstr("UTF-8"));
  }
}

TEST_F(BadInputTest, BytesThatAreNoMessage_AreRefused) {
  for (const char* method :
       {"/quantloom.v1.GenerationService/Generate", "/quantloom.v1.GenerationService/Score",
        "/quantloom.v1.ModelService/ListModels"}) {
    const absl::Status status = FromGrpcStatus(CallMethod(channel_, method, "\x0A\xFF\xFF"));
    EXPECT_EQ(status.code(), kInvalid) << method << status;
  }
}

TEST_F(BadInputTest, MessageOverTheLimit_IsResourceExhausted) {
  const Generated generated = Generate(Request(std::string(17 << 20, 'a'), 8));
  EXPECT_EQ(generated.status.code(), absl::StatusCode::kResourceExhausted) << generated.status;
}

TEST_F(BadInputTest, Score_NamesTheWrongField) {
  struct Case {
    std::function<void(v1::ScoreRequest&)> spoil;
    const char* field;
  };
  const std::vector<Case> cases = {
      {[](v1::ScoreRequest& r) { r.clear_input(); }, "input"},
      {[](v1::ScoreRequest& r) { r.set_text(""); }, "text"},
      {[](v1::ScoreRequest& r) { r.set_text("x"); }, "text"},
      {[](v1::ScoreRequest& r) { r.set_text(std::string(kTinyContext + 1, '\x01')); }, "text"},
      {[](v1::ScoreRequest& r) { r.set_text(std::string(2 << 20, 'a')); }, "text"},
      {[](v1::ScoreRequest& r) { r.mutable_tokens()->add_ids(1); }, "tokens.ids"},
      {[](v1::ScoreRequest& r) {
         r.mutable_tokens()->add_ids(1);
         r.mutable_tokens()->add_ids(-7);
       },
       "tokens.ids[1]"},
      {[](v1::ScoreRequest& r) { r.set_top(21); }, "top"},
      {[](v1::ScoreRequest& r) { r.set_model("a/b"); }, "model"},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    v1::ScoreRequest request;
    request.set_text("the rain");
    cases[i].spoil(request);
    grpc::ClientContext context;
    v1::ScoreResponse response;
    const absl::Status status = FromGrpcStatus(generation_->Score(&context, request, &response));
    EXPECT_EQ(status.code(), kInvalid) << status;
    EXPECT_EQ(ViolatedField(status), cases[i].field);
  }
}

TEST_F(BadInputTest, TokenizeAndDetokenize_NameTheWrongField) {
  v1::TokenizeRequest text;
  text.set_text(std::string(2 << 20, 'a'));
  grpc::ClientContext tokenize_context;
  v1::TokenizeResponse tokenized;
  const absl::Status tokenize =
      FromGrpcStatus(generation_->Tokenize(&tokenize_context, text, &tokenized));
  EXPECT_EQ(tokenize.code(), kInvalid) << tokenize;
  EXPECT_EQ(ViolatedField(tokenize), "text");

  v1::DetokenizeRequest ids;
  ids.add_ids(kTinyVocab);
  grpc::ClientContext detokenize_context;
  v1::DetokenizeResponse detokenized;
  const absl::Status detokenize =
      FromGrpcStatus(generation_->Detokenize(&detokenize_context, ids, &detokenized));
  EXPECT_EQ(detokenize.code(), kInvalid) << detokenize;
  EXPECT_EQ(ViolatedField(detokenize), "ids[0]");
}

// Prompts longer than what the KV cache can ever hold can never run.
TEST_F(BadInputTest, PromptOverTheKvCache_IsInvalid) {
  StopServer();
  options_.engine.kv_tokens = 64;
  StartServer();
  v1::GenerateRequest request = Request("", 1);
  for (int i = 0; i < 100; ++i) request.mutable_prompt_tokens()->add_ids(5);
  const Generated generated = Generate(request);
  EXPECT_EQ(generated.status.code(), kInvalid) << generated.status;
  EXPECT_EQ(ViolatedField(generated.status), "prompt_tokens");
}

TEST_F(BadInputTest, FullQueue_SaysWhenToRetry) {
  StopServer();
  options_.engine.max_running = 1;
  options_.engine.max_waiting = 0;
  StartServer();
  ExpectIdle();
  v1::GenerateRequest request = Request("the", 1900);
  request.set_logprobs(20);  // too many bytes to be sent while nobody reads
  grpc::ClientContext context;
  const auto stream = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  const Generated refused = Generate(Request("the", 4));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted) << refused.status;
  EXPECT_TRUE(RetryDelay(refused.status).has_value());
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ExpectIdle();
}

}  // namespace
}  // namespace quantloom::testing
