#include "core/text/gguf_tokenizer.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "core/text/byte_level.h"
#include "core/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/core/gguf_builder.h"

namespace quantloom {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kBos[] = "<|begin|>";
constexpr char kEnd[] = "<|end|>";

// Ids 0 .. 255 are the bytes; 256 "12", 257 kBos, 258 kEnd, 259 "<think>" (user-defined).
std::vector<std::string> Tokens() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(SpellingOfBytes(std::string(1, static_cast<char>(byte))));
  }
  for (const char* token : {"12", kBos, kEnd, "<think>"}) tokens.emplace_back(token);
  return tokens;
}

std::vector<int32_t> Types() {
  std::vector<int32_t> types(257, 1);
  types.insert(types.end(), {3, 3, 4});
  return types;
}

GgufBuilder Model(const std::string& pre) {
  GgufBuilder builder;
  builder.String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", pre)
      .Strings("tokenizer.ggml.tokens", Tokens())
      .Array<int32_t>("tokenizer.ggml.token_type", GgufBuilder::kI32, Types())
      .Strings("tokenizer.ggml.merges", {"1 2"})
      .U32("tokenizer.ggml.bos_token_id", 257)
      .U32("tokenizer.ggml.eos_token_id", 258);
  return builder;
}

absl::StatusOr<std::map<std::string, std::string>> FilesOf(const GgufBuilder& builder) {
  const std::string bytes = builder.Build();
  auto file = GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  if (!file.ok()) return file.status();
  return TokenizerFilesFromGguf(*file);
}

std::unique_ptr<Tokenizer> TokenizerOf(const GgufBuilder& builder) {
  auto files = FilesOf(builder);
  EXPECT_TRUE(files.ok()) << files.status();
  auto tokenizer = Tokenizer::FromJson(files->at("tokenizer.json"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TokenizerFilesFromGguf, EachPreTokenizerCutsNumbersItsWay) {
  EXPECT_THAT(TokenizerOf(Model("gpt-2"))->Encode("12", true), ElementsAre(256));
  EXPECT_THAT(TokenizerOf(Model("llama-bpe"))->Encode("12", true), ElementsAre(256));
  EXPECT_THAT(TokenizerOf(Model("smollm"))->Encode("12", true), ElementsAre('1', '2'));
  EXPECT_THAT(TokenizerOf(Model("qwen2"))->Encode("12", true), ElementsAre('1', '2'));
  // Groups of three count from the left: 991 and 2.
  EXPECT_THAT(TokenizerOf(Model("llama-bpe"))->Encode("9912", true),
              ElementsAre('9', '9', '1', '2'));
  EXPECT_THAT(TokenizerOf(Model("gpt-2"))->Encode("9912", true), ElementsAre('9', '9', 256));
  EXPECT_THAT(TokenizerOf(Model("default"))->Encode("9912", true), ElementsAre('9', '9', '1', '2'));
}

TEST(TokenizerFilesFromGguf, TokenTypesDecideWhatIsSpecial) {
  const auto tokenizer = TokenizerOf(Model("gpt-2"));
  EXPECT_TRUE(tokenizer->IsSpecial(257));
  EXPECT_FALSE(tokenizer->IsSpecial(259));
  EXPECT_THAT(tokenizer->Encode("<|end|>", true), ElementsAre(258));
  EXPECT_EQ(tokenizer->Encode("<|end|>", false).size(), 7u);
  EXPECT_THAT(tokenizer->Encode("<think>", false), ElementsAre(259));
}

TEST(TokenizerFilesFromGguf, BosComesFromTheKeyElseFromThePreTokenizer) {
  EXPECT_EQ(TokenizerOf(Model("gpt-2"))->bos_to_add(), std::nullopt);
  EXPECT_EQ(TokenizerOf(Model("llama-bpe"))->bos_to_add(), 257);
  const auto with_key = [](const char* pre, uint8_t add) {
    return TokenizerOf(Model(pre).Key("tokenizer.ggml.add_bos_token", GgufBuilder::kBool, add))
        ->bos_to_add();
  };
  EXPECT_EQ(with_key("gpt-2", 1), 257);
  EXPECT_EQ(with_key("llama-bpe", 0), std::nullopt);
}

TEST(TokenizerFilesFromGguf, ConfigurationFilesHoldSpellingsIdsAndTemplate) {
  const auto files = FilesOf(Model("gpt-2")
                                 .U32("tokenizer.ggml.eot_token_id", 259)
                                 .U32("tokenizer.ggml.padding_token_id", 258)
                                 .String("tokenizer.chat_template", "{{ messages }}"));
  ASSERT_TRUE(files.ok()) << files.status();
  const json config = json::parse(files->at("tokenizer_config.json"));
  EXPECT_EQ(config["bos_token"], kBos);
  EXPECT_EQ(config["eos_token"], kEnd);
  EXPECT_EQ(config["pad_token"], kEnd);
  EXPECT_FALSE(config.contains("unk_token"));
  EXPECT_EQ(config["add_bos_token"], false);
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
  const json generation = json::parse(files->at("generation_config.json"));
  EXPECT_EQ(generation["bos_token_id"], 257);
  EXPECT_EQ(generation["eos_token_id"], json({258, 259}));
  EXPECT_EQ(generation["pad_token_id"], 258);
}

TEST(TokenizerFilesFromGguf, NamesTheKeyThatIsWrong) {
  const auto error = [](const GgufBuilder& builder) {
    const auto files = FilesOf(builder);
    EXPECT_FALSE(files.ok());
    return std::string(files.status().message());
  };
  EXPECT_THAT(error(GgufBuilder()), HasSubstr("tokenizer.ggml.model"));
  EXPECT_THAT(error(GgufBuilder().String("tokenizer.ggml.model", "llama")), HasSubstr("'llama'"));
  EXPECT_THAT(error(Model("something-new")), HasSubstr("something-new"));
  EXPECT_THAT(error(Model("gpt-2").U32("tokenizer.ggml.eot_token_id", 260)),
              HasSubstr("tokenizer.ggml.eot_token_id"));

  const auto with_tokens = [](std::vector<std::string> tokens, std::vector<int32_t> types,
                              const std::string& merge) {
    GgufBuilder builder;
    builder.String("tokenizer.ggml.model", "gpt2")
        .Strings("tokenizer.ggml.tokens", tokens)
        .Array<int32_t>("tokenizer.ggml.token_type", GgufBuilder::kI32, types)
        .Strings("tokenizer.ggml.merges", {merge});
    return builder;
  };
  EXPECT_TRUE(FilesOf(with_tokens({"a", "b", "ab"}, {1, 1, 1}, "a b")).ok());
  EXPECT_THAT(error(with_tokens({"a", "b", "ab"}, {1, 1, 1}, "a c")), HasSubstr("merges"));
  EXPECT_THAT(error(with_tokens({"a", "b", "ab"}, {1, 1, 1}, "a\xFF")), HasSubstr("merges"));
  EXPECT_THAT(error(with_tokens({"a", "b", "ab"}, {1, 1}, "a b")), HasSubstr("token_type"));
  EXPECT_THAT(error(with_tokens({"a", "b", "ab"}, {1, 1, 7}, "a b")), HasSubstr("[2] is 7"));
  EXPECT_THAT(error(with_tokens({"a", "a", "ab"}, {1, 1, 1}, "a b")), HasSubstr("[1] repeats"));
  EXPECT_THAT(error(with_tokens({"a", "\xC3", "ab"}, {1, 1, 1}, "a b")),
              HasSubstr("[1] is not valid UTF-8"));
}

TEST(TokenizerFilesFromGguf, TheDemonstrationModelGivesPublishedIds) {
  const char* path = std::getenv("QUANTLOOM_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "QUANTLOOM_TEST_MODEL does not name the model's GGUF file";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto files = TokenizerFilesFromGguf(*file);
  ASSERT_TRUE(files.ok()) << files.status();
  const auto tokenizer = Tokenizer::FromJson(files->at("tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto encode = [&](absl::string_view text) { return (*tokenizer)->Encode(text, true); };
  EXPECT_THAT(encode("The capital of France is"), ElementsAre(504, 3575, 282, 4649, 314));
  EXPECT_THAT(encode("Hello world! 123"), ElementsAre(19556, 905, 17, 216, 33, 34, 35));
  EXPECT_THAT(encode("Caf\xC3\xA9 d\xC3\xA9j\xC3\xA0 vu."),
              ElementsAre(51, 1939, 2756, 32564, 90, 16739, 386, 101, 30));
  EXPECT_THAT(encode("  multiple   spaces"), ElementsAre(216, 2701, 256, 5600));
  EXPECT_THAT(encode("<|im_start|>user\n"), testing::Contains(1));
  EXPECT_EQ((*tokenizer)->vocab_size(), 49152);
  EXPECT_EQ((*tokenizer)->bos_to_add(), std::nullopt);
}

}  // namespace
}  // namespace quantloom
