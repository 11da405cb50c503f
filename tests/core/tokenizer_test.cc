// Behaviour of the tokenizer on small vocabularies written out here; tests/oracle compares it with
// another implementation at scale.
#include "core/text/tokenizer.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/text/byte_level.h"
#include "core/text/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kA = 'a', kB = 'b', kC = 'c';

// Ids 0 .. 255 are the bytes; merges make ab = 256, bc = 257, abc = 258; <|s|> = 259 is special.
json ByteTokenizer() {
  json vocab;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[SpellingOfBytes(std::string(1, static_cast<char>(byte)))] = byte;
  }
  vocab["ab"] = 256;
  vocab["bc"] = 257;
  vocab["abc"] = 258;
  return {
      {"added_tokens", {{{"id", 259}, {"content", "<|s|>"}, {"special", true}}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"b c", "a b", json::array({"a", "bc"})}}}}};
}

std::unique_ptr<Tokenizer> Make(const json& definition) {
  auto tokenizer = Tokenizer::FromJson(definition.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string ErrorOf(const json& definition) {
  const auto tokenizer = Tokenizer::FromJson(definition.dump());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(tokenizer.status().message());
}

TEST(Encode, AppliesTheMergeOfLowestRankFirstAndTheLeftmostOfEquals) {
  const auto tokenizer = Make(ByteTokenizer());
  EXPECT_THAT(tokenizer->Encode("abc", true), ElementsAre(258));  // a (b c), not (a b) c
  EXPECT_THAT(tokenizer->Encode("abab", true), ElementsAre(256, 256));
  EXPECT_THAT(tokenizer->Encode("aabcc", true), ElementsAre(kA, 258, kC));
  EXPECT_THAT(tokenizer->Encode("", true), IsEmpty());
}

TEST(Encode, SpecialTokensAreTextUnlessTheyAreAskedFor) {
  const auto tokenizer = Make(ByteTokenizer());
  EXPECT_THAT(tokenizer->Encode("a<|s|>ab", true), ElementsAre(kA, 259, 256));
  EXPECT_THAT(tokenizer->Encode("<|s|>", false), ElementsAre('<', '|', 's', '|', '>'));
  EXPECT_THAT(tokenizer->Encode("<|s|", true), ElementsAre('<', '|', 's', '|'));
}

TEST(Encode, ReplacesEachBrokenSequenceByTheReplacementCharacter) {
  const auto tokenizer = Make(ByteTokenizer());
  const std::string text = "a\xE2\x82z\xFF";
  EXPECT_EQ(tokenizer->Encode(text, true), tokenizer->Encode("a\xEF\xBF\xBDz\xEF\xBF\xBD", true));
}

TEST(Encode, TenMegabytesWithoutACutArePossible) {
  // A quadratic merge loop or pre-tokenizer would run into the test's time limit.
  const auto tokenizer = Make(ByteTokenizer());
  std::string word;
  for (int i = 0; word.size() < 10'000'000; ++i) word += i % 7 == 0 ? "cab" : "abc";
  for (const std::string& text :
       {word, std::string(10'000'000, ' '), std::string(10'000'000, '!')}) {
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, true), false).value(), text);
  }
}

TEST(Encode, AnExponentialExpressionGivesUpAndKeepsTheText) {
  json definition = ByteTokenizer();
  definition["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(a+)+\\n"}}}, {"behavior", "Isolated"}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const auto tokenizer = Make(definition);
  const std::string text = std::string(5000, 'a') + "c\n";
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, true), false).value(), text);
}

TEST(Encode, OneTokenizerServesManyThreads) {
  const auto tokenizer = Make(ByteTokenizer());
  const std::string text = "abc ab bc <|s|> cab abcabc 123 \xF0\x9F\x98\x80";
  const std::vector<int32_t> expected = tokenizer->Encode(text, true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        EXPECT_EQ(tokenizer->Encode(text, true), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Decode, LeavesSpecialTokensOutWhenAsked) {
  const auto tokenizer = Make(ByteTokenizer());
  const std::vector<int32_t> ids = {259, 258, 259};
  EXPECT_EQ(tokenizer->Decode(ids, true).value(), "abc");
  EXPECT_EQ(tokenizer->Decode(ids, false).value(), "<|s|>abc<|s|>");
}

TEST(Decode, RejectsIdsOutsideTheVocabulary) {
  const auto tokenizer = Make(ByteTokenizer());
  for (const int32_t id : {-1, 260, 1 << 30}) {
    const std::vector<int32_t> ids = {id};
    const absl::Status status = tokenizer->Decode(ids, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat(id)));
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  }
}

TEST(Tokenizer, FindsTokensBySpelling) {
  const auto tokenizer = Make(ByteTokenizer());
  EXPECT_EQ(tokenizer->TokenId("<|s|>"), 259);
  EXPECT_EQ(tokenizer->TokenId("\xC4\xA0"), ' ');  // U+0120
  EXPECT_EQ(tokenizer->TokenId("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_TRUE(tokenizer->IsSpecial(259));
}

TEST(Tokenizer, TakesBosFromTheTemplateOfThePostProcessor) {
  json definition = ByteTokenizer();
  EXPECT_EQ(Make(definition)->bos_to_add(), std::nullopt);
  const json sequence = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json bos = {{"SpecialToken", {{"id", "<|s|>"}, {"type_id", 0}}}};
  const json post = {{"type", "TemplateProcessing"},
                     {"single", {bos, sequence}},
                     {"special_tokens", {{"<|s|>", {{"id", "<|s|>"}, {"ids", {259}}}}}}};
  definition["post_processor"] = {{"type", "Sequence"},
                                  {"processors", {{{"type", "ByteLevel"}}, post}}};
  EXPECT_EQ(Make(definition)->bos_to_add(), 259);
  definition["post_processor"] = post;
  definition["post_processor"]["single"] = {sequence, bos};  // an EOS is not a BOS
  EXPECT_EQ(Make(definition)->bos_to_add(), std::nullopt);
  definition["post_processor"] = post;
  definition["post_processor"]["special_tokens"]["<|s|>"]["ids"] = {5000};
  EXPECT_THAT(ErrorOf(definition), HasSubstr("post_processor"));
}

struct Malformed {
  const char* pointer;
  json value;
  const char* named;  // what the message must say
};

TEST(FromJson, NamesWhatIsMalformedOrNotSupported) {
  const std::vector<Malformed> cases = {
      {"/model/type", "Unigram", "Unigram"},
      {"/model/vocab", 7, "model.vocab"},
      {"/model/vocab/abc", -1, "'abc'"},
      {"/model/vocab/abc", 256, "same id 256"},
      {"/model/vocab/abc", 1 << 30, "'abc'"},
      {"/model/vocab/abc", 1.5, "'abc'"},
      {"/model/merges/1", "a b c", "model.merges: [1]"},
      {"/model/merges/1", "a z", "'az' is not in the vocabulary"},
      {"/model/merges/1", json::array({"a"}), "model.merges: [1]"},
      {"/model/merges", "x", "model.merges"},
      {"/model/unk_token", "<unk>", "unk_token"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/model/ignore_merges", "yes", "ignore_merges"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/normalizer", {{"type", "NFC"}}, "normalizer"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder"},
      {"/decoder", nullptr, "decoder"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer"},
      {"/pre_tokenizer/type", "Metaspace", "Metaspace"},
      {"/pre_tokenizer/use_regex", 1, "use_regex"},
      {"/added_tokens", "x", "added_tokens"},
      {"/added_tokens/0/id", 256, "same id 256"},
      {"/added_tokens/0/content", "", "added_tokens: [0]"},
      {"/added_tokens/0/lstrip", "x", "lstrip"},
      {"/post_processor", {{"type", "BertProcessing"}}, "post_processor"},
  };
  for (const Malformed& c : cases) {
    json definition = ByteTokenizer();
    definition[json::json_pointer(c.pointer)] = c.value;
    EXPECT_THAT(ErrorOf(definition), HasSubstr(c.named)) << c.pointer << " = " << c.value;
  }
  EXPECT_FALSE(Tokenizer::FromJson("{").ok());
  EXPECT_FALSE(Tokenizer::FromJson("[]").ok());
}

TEST(FromJson, RefusesExpressionsThatMeanSomethingElseHere) {
  for (const char* pattern :
       {"\\w+", "[\\S]", "[a[b]]", "[a&&b]", "(", "(*ACCEPT)", "a\\", "\\K", "\\C"}) {
    json definition = ByteTokenizer();
    definition["pre_tokenizer"] = {
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    EXPECT_THAT(ErrorOf(definition), HasSubstr("regular expression")) << pattern;
  }
}

TEST(StreamingDetokenizer, HoldsAnUnfinishedCharacterBack) {
  const auto tokenizer = Make(ByteTokenizer());
  StreamingDetokenizer stream(*tokenizer);
  EXPECT_EQ(stream.Push(0xF0), "");
  EXPECT_EQ(stream.Push(0x9F), "");
  EXPECT_EQ(stream.Push(259), "");  // skipped, not an end
  EXPECT_EQ(stream.Push(0x98), "");
  EXPECT_EQ(stream.Push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.Push(kB), "b");
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Push(0x82), "");
  EXPECT_EQ(stream.Flush(), kReplacementCharacter);
  EXPECT_EQ(stream.Flush(), "");
}

TEST(StreamingDetokenizer, ReplacesABrokenSequenceAsSoonAsItIsBroken) {
  const auto tokenizer = Make(ByteTokenizer());
  StreamingDetokenizer stream(*tokenizer);
  EXPECT_EQ(stream.Push(0xE2), "");
  EXPECT_EQ(stream.Push(kA), absl::StrCat(kReplacementCharacter, "a"));
  EXPECT_EQ(stream.Push(0x80), kReplacementCharacter);
  EXPECT_EQ(stream.Push(0xED), "");
  // U+D800 .. U+DFFF have no encoding: both bytes are errors by themselves.
  EXPECT_EQ(stream.Push(0xA0), absl::StrCat(kReplacementCharacter, kReplacementCharacter));
}

TEST(Utf8, CutsBrokenSequencesIntoMaximalSubparts) {
  // Unicode standard, table 3-8 and the examples after it (section 3.9).
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(ReplaceInvalidUtf8("a\xF1\x80\x80\xE1\x80\xC2"
                               "b\x80"
                               "c\x80\xBF"
                               "d"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(ReplaceInvalidUtf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(ReplaceInvalidUtf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(ReplaceInvalidUtf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(ReplaceInvalidUtf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(Utf8, EveryCodePointSurvivesEncodingAndDecoding) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    const Utf8Unit unit = DecodeUtf8(text);
    ASSERT_EQ(unit.code_point, c);
    ASSERT_EQ(unit.length, text.size());
    ASSERT_EQ(unit.kind, Utf8Unit::Kind::kCharacter);
  }
}

TEST(ByteLevel, EveryByteHasOneVisibleCharacter) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  const std::string spelling = SpellingOfBytes(bytes);
  EXPECT_EQ(CountCharacters(spelling), 256u);
  EXPECT_EQ(BytesOfSpelling(spelling), bytes);
  EXPECT_EQ(BytesOfSpelling("a b"), std::nullopt);  // a space is not in the alphabet
  EXPECT_EQ(SpellingOfBytes(" \n"), "\xC4\xA0\xC4\x8A");
}

}  // namespace
}  // namespace quantloom
