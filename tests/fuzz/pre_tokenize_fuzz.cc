// Any text through the pre-tokenizers of GPT-2, SmolLM and Llama 3: the pieces, joined, are the
// text, with each broken sequence replaced; so are the decoded tokens.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "core/text/byte_level.h"
#include "core/text/pre_tokenizer.h"
#include "core/text/tokenizer.h"
#include "core/text/utf8.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

using nlohmann::json;

json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}};
}

std::vector<json> Definitions() {
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const json llama3 = {
      {"type", "Split"},
      {"behavior", "Isolated"},
      {"pattern",
       {{"Regex", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                  R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}}};
  const auto sequence = [](const json& first, const json& second) -> json {
    return {{"type", "Sequence"}, {"pretokenizers", json::array({first, second})}};
  };
  return {ByteLevel(true), sequence(digits, ByteLevel(true)), sequence(llama3, ByteLevel(false))};
}

std::unique_ptr<Tokenizer> MakeTokenizer(const json& pre_tokenizer) {
  json vocab;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[SpellingOfBytes(std::string(1, static_cast<char>(byte)))] = byte;
  }
  vocab["ab"] = 256;
  vocab["aba"] = 257;
  return Tokenizer::FromJson(
             json{{"added_tokens", json::array({{{"id", 258}, {"content", "<|x|>"}}})},
                  {"pre_tokenizer", pre_tokenizer},
                  {"decoder", {{"type", "ByteLevel"}}},
                  {"model",
                   {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array({"a b", "ab a"})}}}}
                 .dump())
      .value();
}

struct Subject {
  PreTokenizer pre_tokenizer;
  std::unique_ptr<Tokenizer> tokenizer;
};

const std::vector<Subject>& Subjects() {
  static const auto* const kSubjects = [] {
    auto* subjects = new std::vector<Subject>();
    for (const json& definition : Definitions()) {
      subjects->push_back({PreTokenizer::FromJson(definition).value(), MakeTokenizer(definition)});
    }
    return subjects;
  }();
  return *kSubjects;
}

void Check(absl::string_view text) {
  const std::string valid = ReplaceInvalidUtf8(text);
  for (const Subject& subject : Subjects()) {
    PreTokenizer::Scratch scratch;
    std::string joined;
    subject.pre_tokenizer.Split(valid, scratch, [&](absl::string_view piece) {
      if (piece.empty()) std::abort();
      joined.append(piece.data(), piece.size());
    });
    if (joined != valid) std::abort();

    const std::vector<int32_t> ids = subject.tokenizer->Encode(text, /*parse_special=*/true);
    if (subject.tokenizer->Decode(ids, /*skip_special=*/false).value() != valid) std::abort();
  }
}

}  // namespace
}  // namespace quantloom

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quantloom::Check({reinterpret_cast<const char*>(data), size});
  return 0;
}
