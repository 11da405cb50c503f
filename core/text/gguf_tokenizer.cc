#include "core/text/gguf_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/json.h"
#include "core/base/status.h"
#include "core/text/pre_tokenizer.h"
#include "core/text/tokenizer.h"
#include "core/text/utf8.h"

namespace quantloom {
namespace {

using nlohmann::json;

constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr char kTypesKey[] = "tokenizer.ggml.token_type";
constexpr char kMergesKey[] = "tokenizer.ggml.merges";
constexpr char kTemplateKey[] = "tokenizer.chat_template";

// Values of tokenizer.ggml.token_type that make a token an added one; the others are ordinary.
constexpr int64_t kUnknownToken = 2;
constexpr int64_t kControlToken = 3;
constexpr int64_t kUserDefinedToken = 4;
constexpr int64_t kLastTokenType = 6;

constexpr char kLlama3[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                           R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                          R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// What llama.cpp does for a value of tokenizer.ggml.pre: it cuts by each expression in turn.
struct PreTokenizerKind {
  std::vector<absl::string_view> names;
  std::vector<absl::string_view> patterns;
  bool ignore_merges = false;
  bool add_bos = false;  // unless tokenizer.ggml.add_bos_token says otherwise
};

const std::vector<PreTokenizerKind>& KnownPreTokenizers() {
  static const auto* const kKnown = new std::vector<PreTokenizerKind>{
      {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {{"gpt-2", "phi-2", "olmo", "mpt", "jais"}, {kGpt2Pattern}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
       {R"(\p{N})", kGpt2Pattern}},
      {{"llama3", "llama-v3", "llama-bpe", "falcon3"}, {kLlama3}, true, true},
      {{"smaug-bpe", "dbrx"}, {kLlama3}},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2"}, {kQwen2}},
  };
  return *kKnown;
}

absl::StatusOr<const PreTokenizerKind*> FindPreTokenizer(const GgufFile& file) {
  constexpr char kModelKey[] = "tokenizer.ggml.model";
  constexpr char kPreKey[] = "tokenizer.ggml.pre";
  QL_ASSIGN_OR_RETURN(const absl::string_view model, file.String(kModelKey));
  if (model != "gpt2") {
    return absl::InvalidArgumentError(absl::StrCat(
        "key '", kModelKey, "': '", model, "' is not supported, only 'gpt2' (byte-level BPE)"));
  }
  absl::string_view pre = "default";
  if (file.Has(kPreKey)) {
    QL_ASSIGN_OR_RETURN(pre, file.String(kPreKey));
  }
  for (const PreTokenizerKind& kind : KnownPreTokenizers()) {
    if (std::find(kind.names.begin(), kind.names.end(), pre) != kind.names.end()) return &kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("key '", kPreKey, "': the pre-tokenizer '", pre, "' is not supported"));
}

absl::Status CheckUtf8(absl::string_view key, size_t index, absl::string_view text) {
  if (IsValidUtf8(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("key '", key, "': [", index, "] is not valid UTF-8"));
}

class FilesWriter {
 public:
  FilesWriter(const GgufFile& file, const PreTokenizerKind& kind) : file_(file), kind_(kind) {}

  absl::StatusOr<std::map<std::string, std::string>> Write() {
    QL_RETURN_IF_ERROR(ReadTokens());
    QL_RETURN_IF_ERROR(ReadSpecialIds());
    QL_ASSIGN_OR_RETURN(const json tokenizer, TokenizerJson());
    QL_ASSIGN_OR_RETURN(const json config, TokenizerConfig());
    std::map<std::string, std::string> files;
    files["tokenizer.json"] = DumpJson(tokenizer) + "\n";
    files["tokenizer_config.json"] = DumpJson(config, 2) + "\n";
    files["generation_config.json"] = DumpJson(GenerationConfig(), 2) + "\n";
    // Merges that name tokens which do not exist, and the like, are better known now.
    QL_RETURN_IF_ERROR(Tokenizer::FromJson(files["tokenizer.json"]).status());
    return files;
  }

 private:
  absl::Status ReadTokens() {
    QL_ASSIGN_OR_RETURN(tokens_, file_.Strings(kTokensKey));
    for (size_t i = 0; i < tokens_.size(); ++i) {
      QL_RETURN_IF_ERROR(CheckUtf8(kTokensKey, i, tokens_[i]));
    }
    if (!file_.Has(kTypesKey)) return absl::OkStatus();
    QL_ASSIGN_OR_RETURN(types_, file_.Integers(kTypesKey));
    if (types_.size() != tokens_.size()) {
      return absl::InvalidArgumentError(absl::StrCat("key '", kTypesKey, "' has ", types_.size(),
                                                     " elements for ", tokens_.size(), " tokens"));
    }
    for (size_t i = 0; i < types_.size(); ++i) {
      if (types_[i] < 0 || types_[i] > kLastTokenType) {
        return absl::InvalidArgumentError(
            absl::StrCat("key '", kTypesKey, "': [", i, "] is ", types_[i]));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadSpecialIds() {
    QL_ASSIGN_OR_RETURN(bos_, SpecialId("bos"));
    QL_ASSIGN_OR_RETURN(eos_, SpecialId("eos"));
    QL_ASSIGN_OR_RETURN(unknown_, SpecialId("unknown"));
    QL_ASSIGN_OR_RETURN(padding_, SpecialId("padding"));
    // Chat models end a turn with a token of its own besides the end of the text.
    if (eos_.has_value()) ends_.push_back(*eos_);
    for (const char* name : {"eot", "eom"}) {
      QL_ASSIGN_OR_RETURN(const std::optional<uint64_t> id, SpecialId(name));
      if (id.has_value() && std::find(ends_.begin(), ends_.end(), *id) == ends_.end()) {
        ends_.push_back(*id);
      }
    }
    add_bos_ = kind_.add_bos;
    constexpr char kAddBosKey[] = "tokenizer.ggml.add_bos_token";
    if (file_.Has(kAddBosKey)) {
      QL_ASSIGN_OR_RETURN(add_bos_, file_.Bool(kAddBosKey));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<uint64_t>> SpecialId(absl::string_view name) const {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    if (!file_.Has(key)) return std::nullopt;
    QL_ASSIGN_OR_RETURN(const uint64_t id, file_.Unsigned(key));
    if (id >= tokens_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("key '", key, "' is ", id, ", outside the vocabulary"));
    }
    return id;
  }

  std::string Token(uint64_t id) const { return std::string(tokens_[id]); }

  absl::StatusOr<json> TokenizerJson() const {
    json vocab = json::object();
    json added = json::array();
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (!vocab.emplace(Token(id), id).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("key '", kTokensKey, "': [", id, "] repeats '", tokens_[id], "'"));
      }
      const int64_t type = types_.empty() ? 0 : types_[id];
      const bool special = type == kControlToken || type == kUnknownToken;
      if ((special || type == kUserDefinedToken) && !tokens_[id].empty()) {
        added.push_back({{"id", id},
                         {"content", Token(id)},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", special}});
      }
    }
    QL_ASSIGN_OR_RETURN(json merges, Merges());
    return json{{"version", "1.0"},
                {"truncation", nullptr},
                {"padding", nullptr},
                {"added_tokens", std::move(added)},
                {"normalizer", nullptr},
                {"pre_tokenizer", PreTokenizerJson()},
                {"post_processor", PostProcessorJson()},
                {"decoder", ByteLevelJson()},
                {"model",
                 {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false},
                  {"ignore_merges", kind_.ignore_merges},
                  {"vocab", std::move(vocab)},
                  {"merges", std::move(merges)}}}};
  }

  absl::StatusOr<json> Merges() const {
    QL_ASSIGN_OR_RETURN(const std::vector<absl::string_view> merges, file_.Strings(kMergesKey));
    json list = json::array();
    for (size_t i = 0; i < merges.size(); ++i) {
      QL_RETURN_IF_ERROR(CheckUtf8(kMergesKey, i, merges[i]));
      list.push_back(std::string(merges[i]));
    }
    return list;
  }

  static json ByteLevelJson() {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", false}};
  }

  json PreTokenizerJson() const {
    json steps = json::array();
    for (const absl::string_view pattern : kind_.patterns) {
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", std::string(pattern)}}},
                       {"behavior", "Isolated"},
                       {"invert", false}});
    }
    steps.push_back(ByteLevelJson());
    return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
  }

  json PostProcessorJson() const {
    if (!add_bos_ || !bos_.has_value()) return nullptr;
    const std::string bos = Token(*bos_);
    const auto special = [&](int type) -> json {
      return {{"SpecialToken", {{"id", bos}, {"type_id", type}}}};
    };
    const auto sequence = [](const char* id, int type) -> json {
      return {{"Sequence", {{"id", id}, {"type_id", type}}}};
    };
    return {
        {"type", "TemplateProcessing"},
        {"single", json::array({special(0), sequence("A", 0)})},
        {"pair", json::array({special(0), sequence("A", 0), special(1), sequence("B", 1)})},
        {"special_tokens",
         {{bos, {{"id", bos}, {"ids", json::array({*bos_})}, {"tokens", json::array({bos})}}}}}};
  }

  absl::StatusOr<json> TokenizerConfig() const {
    json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                   {"clean_up_tokenization_spaces", false},
                   {"add_prefix_space", false},
                   {"add_bos_token", add_bos_}};
    const std::pair<const char*, std::optional<uint64_t>> tokens[] = {
        {"bos_token", bos_}, {"eos_token", eos_}, {"unk_token", unknown_}, {"pad_token", padding_}};
    for (const auto& [name, id] : tokens) {
      if (id.has_value()) config[name] = Token(*id);
    }
    if (file_.Has(kTemplateKey)) {
      QL_ASSIGN_OR_RETURN(const absl::string_view text, file_.String(kTemplateKey));
      QL_RETURN_IF_ERROR(CheckUtf8(kTemplateKey, 0, text));
      config["chat_template"] = std::string(text);
    }
    return config;
  }

  json GenerationConfig() const {
    json config = json::object();
    if (bos_.has_value()) config["bos_token_id"] = *bos_;
    if (ends_.size() == 1) config["eos_token_id"] = ends_[0];
    if (ends_.size() > 1) config["eos_token_id"] = ends_;
    if (padding_.has_value()) config["pad_token_id"] = *padding_;
    return config;
  }

  const GgufFile& file_;
  const PreTokenizerKind& kind_;
  std::vector<absl::string_view> tokens_;
  std::vector<int64_t> types_;  // one for each token, or none at all
  std::optional<uint64_t> bos_, eos_, unknown_, padding_;
  std::vector<uint64_t> ends_;
  bool add_bos_ = false;
};

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> TokenizerFilesFromGguf(const GgufFile& file) {
  QL_ASSIGN_OR_RETURN(const PreTokenizerKind* kind, FindPreTokenizer(file));
  return FilesWriter(file, *kind).Write();
}

}  // namespace quantloom
