// No request of the server's services, however formed, is answered as if the server had failed.
#include "tests/services/common/field_limits.h"

#include <gtest/gtest.h>

#include "tests/services/server/models_fixture.h"

namespace quantloom::testing {
namespace {

constexpr uint64_t kMaxPromptBytes = 4096;

class FieldLimitsTest : public ModelsTest {
 protected:
  void SetUp() override {
    ModelsTest::SetUp();
    options_.input.max_prompt_bytes = kMaxPromptBytes;
    StartServer();
  }
  void ExpectStillServing() {
    const Generated generated = Generate(Request("the rain", 5));
    EXPECT_TRUE(generated.status.ok()) << generated.status;
    ExpectIdle();
  }
};

TEST_F(FieldLimitsTest, GenerationService_BlamesTheRequestAndGoesOn) {
  const v1::GenerateRequest generate = Request("the rain", 3);
  v1::ScoreRequest score;
  score.set_text("the rain in spain");
  v1::TokenizeRequest tokenize;
  tokenize.set_text("the rain");
  v1::DetokenizeRequest detokenize;
  detokenize.add_ids(5);
  ExpectProperStatuses(channel_, v1::GenerationService::service_full_name(),
                       {&generate, &score, &tokenize, &detokenize}, kMaxPromptBytes);
  ExpectStillServing();
}

TEST_F(FieldLimitsTest, GenerateFromChatAndTokens_BlamesTheRequestAndGoesOn) {
  v1::GenerateRequest chat = Request("", 3);
  v1::ChatMessage& message = *chat.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hello");
  ExpectProperStatuses(channel_, v1::GenerationService::service_full_name(), {&chat},
                       kMaxPromptBytes);
  v1::GenerateRequest tokens = Request("", 3);
  tokens.mutable_prompt_tokens()->add_ids(5);
  ExpectProperStatuses(channel_, v1::GenerationService::service_full_name(), {&tokens},
                       kMaxPromptBytes);
  ExpectStillServing();
}

TEST_F(FieldLimitsTest, ModelService_BlamesTheRequestAndGoesOn) {
  WritePackedModel(root_.path(), "other", /*seed=*/2);
  v1::GetModelRequest get;
  get.set_name("tiny");
  v1::LoadModelRequest load;
  load.set_name("tiny");
  v1::UnloadModelRequest unload;
  unload.set_name("other");
  v1::GetRunningBatchRequest batch;
  batch.set_model("tiny");
  ExpectProperStatuses(channel_, v1::ModelService::service_full_name(),
                       {&get, &load, &unload, &batch}, kMaxPromptBytes);
  ExpectStillServing();
}

}  // namespace
}  // namespace quantloom::testing
