#include "core/text/tokenizer_json.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/json.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

using nlohmann::json;
using SpellingToId = absl::flat_hash_map<std::string, int32_t>;

// Vocabularies have small gaps at most; a large id would only cost memory.
constexpr size_t kMaxUnusedIds = 65536;

absl::Status Invalid(absl::string_view message) { return absl::InvalidArgumentError(message); }

// Member `name` of `object`, null when it is missing.
const json& Member(const json& object, const char* name) {
  static const json* const kNull = new json();
  const json* member = FindJson(object, name);
  return member == nullptr ? *kNull : *member;
}

bool IsEmptyString(const json& value) {
  return value.is_string() && value.get_ref<const std::string&>().empty();
}

absl::StatusOr<int32_t> TokenIdValue(const json& value, size_t token_count) {
  if (!value.is_number_unsigned()) return Invalid("id must be a non-negative integer");
  const uint64_t id = value.get<uint64_t>();
  if (id >= token_count + kMaxUnusedIds) {
    return Invalid(absl::StrCat("id ", id, " is far beyond the ", token_count, " tokens"));
  }
  return static_cast<int32_t>(id);
}

class Reader {
 public:
  absl::StatusOr<TokenizerDefinition> Read(const json& root) {
    const json& model = Member(root, "model");
    if (!model.is_object()) return Invalid("model: must be an object");
    QL_RETURN_IF_ERROR(CheckSupported(root, model));
    const json& added = Member(root, "added_tokens");
    if (!added.is_null() && !added.is_array()) return Invalid("added_tokens: must be an array");

    QL_RETURN_IF_ERROR(Annotate(ReadVocab(Member(model, "vocab"), added.size()), "model.vocab"));
    QL_RETURN_IF_ERROR(Annotate(ReadMerges(Member(model, "merges")), "model.merges"));
    QL_RETURN_IF_ERROR(Annotate(ReadModelOptions(model), "model"));
    QL_RETURN_IF_ERROR(Annotate(ReadAddedTokens(added), "added_tokens"));
    QL_RETURN_IF_ERROR(
        Annotate(ReadPostProcessor(Member(root, "post_processor"), 0), "post_processor"));
    QL_ASSIGN_OR_RETURN(definition_.pre_tokenizer,
                        PreTokenizer::FromJson(Member(root, "pre_tokenizer")));
    return std::move(definition_);
  }

 private:
  static absl::Status CheckSupported(const json& root, const json& model) {
    // Files older than tokenizers 0.9 leave the type out.
    const json& type = Member(model, "type");
    if (!type.is_null() && type != "BPE") {
      return Invalid(absl::StrCat("model.type: ", DumpJson(type), " is not supported, only BPE"));
    }
    const json& normalizer = Member(root, "normalizer");
    const bool empty_sequence = normalizer.is_object() &&
                                Member(normalizer, "type") == "Sequence" &&
                                Member(normalizer, "normalizers") == json::array();
    if (!normalizer.is_null() && !empty_sequence) {
      return Invalid("normalizer: no normalizer is supported");
    }
    const json& decoder = Member(root, "decoder");
    if (!decoder.is_object() || Member(decoder, "type") != "ByteLevel") {
      return Invalid("decoder: only ByteLevel is supported");
    }
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json& affix = Member(model, name);
      if (!affix.is_null() && !IsEmptyString(affix)) {
        return Invalid(absl::StrCat("model.", name, ": is not supported"));
      }
    }
    const json& dropout = Member(model, "dropout");
    if (!dropout.is_null() && dropout != 0) return Invalid("model.dropout: must be null");
    return absl::OkStatus();
  }

  absl::Status ReadVocab(const json& vocab, size_t added_count) {
    if (!vocab.is_object() || vocab.empty()) return Invalid("must be an object, not empty");
    token_count_ = vocab.size() + added_count;
    spelling_of_id_.resize(token_count_ + kMaxUnusedIds);
    for (const auto& [spelling, value] : vocab.items()) {
      const absl::StatusOr<int32_t> id = TokenIdValue(value, token_count_);
      if (!id.ok()) return Annotate(id.status(), absl::StrCat("'", spelling, "'"));
      QL_RETURN_IF_ERROR(ClaimId(*id, spelling));
      definition_.vocab.push_back({spelling, *id});
      ids_.emplace(spelling, *id);
    }
    return absl::OkStatus();
  }

  absl::Status ClaimId(int32_t id, const std::string& spelling) {
    std::optional<std::string>& owner = spelling_of_id_[id];
    if (owner.has_value()) {
      return Invalid(absl::StrCat("'", spelling, "' and '", *owner, "' have the same id ", id));
    }
    owner = spelling;
    definition_.vocab_size = std::max(definition_.vocab_size, id + 1);
    return absl::OkStatus();
  }

  absl::Status ReadMerges(const json& merges) {
    if (!merges.is_array()) return Invalid("must be an array");
    definition_.merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      QL_RETURN_IF_ERROR(Annotate(ReadMerge(merges[i]), absl::StrCat("[", i, "]")));
    }
    return absl::OkStatus();
  }

  absl::Status ReadMerge(const json& merge) {
    std::vector<std::string> pair;
    if (merge.is_string()) {
      pair = absl::StrSplit(merge.get_ref<const std::string&>(), ' ');
    } else if (merge.is_array()) {
      for (const json& part : merge) {
        if (part.is_string()) pair.push_back(part.get<std::string>());
      }
    }
    if (pair.size() != 2) return Invalid("must be 'left right' or ['left', 'right']");
    TokenizerDefinition::Merge ids;
    QL_ASSIGN_OR_RETURN(ids.left, IdOf(pair[0]));
    QL_ASSIGN_OR_RETURN(ids.right, IdOf(pair[1]));
    QL_ASSIGN_OR_RETURN(ids.merged, IdOf(absl::StrCat(pair[0], pair[1])));
    definition_.merges.push_back(ids);
    return absl::OkStatus();
  }

  absl::StatusOr<int32_t> IdOf(const std::string& spelling) const {
    const auto it = ids_.find(spelling);
    if (it == ids_.end()) return Invalid(absl::StrCat("'", spelling, "' is not in the vocabulary"));
    return it->second;
  }

  absl::Status ReadModelOptions(const json& model) {
    QL_ASSIGN_OR_RETURN(definition_.fuse_unknown, JsonFieldOr<bool>(model, "fuse_unk", false));
    QL_ASSIGN_OR_RETURN(definition_.ignore_merges,
                        JsonFieldOr<bool>(model, "ignore_merges", false));
    QL_ASSIGN_OR_RETURN(const bool byte_fallback, JsonFieldOr<bool>(model, "byte_fallback", false));
    if (byte_fallback) return Invalid("'byte_fallback' is not supported");
    const json& unknown = Member(model, "unk_token");
    if (unknown.is_null()) return absl::OkStatus();
    if (!unknown.is_string()) return Invalid("'unk_token' must be a string");
    const absl::StatusOr<int32_t> id = IdOf(unknown.get<std::string>());
    if (!id.ok()) return Annotate(id.status(), "'unk_token'");
    definition_.unknown_id = *id;
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens(const json& added) {
    absl::flat_hash_map<std::string, size_t> index_of;
    for (size_t i = 0; i < added.size(); ++i) {
      absl::StatusOr<AddedToken> token = ReadAddedToken(added[i]);
      if (!token.ok()) return Annotate(token.status(), absl::StrCat("[", i, "]"));
      const auto [it, is_new] =
          index_of.try_emplace(token->content, definition_.added_tokens.size());
      if (is_new) {
        definition_.added_tokens.push_back(*std::move(token));
      } else {
        definition_.added_tokens[it->second] = *std::move(token);
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<AddedToken> ReadAddedToken(const json& value) {
    if (!value.is_object()) return Invalid("must be an object");
    AddedToken token;
    const json& content = Member(value, "content");
    if (!content.is_string() || IsEmptyString(content))
      return Invalid("'content' must be a string");
    token.content = content.get<std::string>();
    QL_ASSIGN_OR_RETURN(token.special, JsonFieldOr<bool>(value, "special", false));
    QL_ASSIGN_OR_RETURN(token.single_word, JsonFieldOr<bool>(value, "single_word", false));
    QL_ASSIGN_OR_RETURN(token.lstrip, JsonFieldOr<bool>(value, "lstrip", false));
    QL_ASSIGN_OR_RETURN(token.rstrip, JsonFieldOr<bool>(value, "rstrip", false));
    QL_ASSIGN_OR_RETURN(token.normalized, JsonFieldOr<bool>(value, "normalized", false));
    // A token that the vocabulary has keeps the id it has there, as in the reference.
    if (const auto it = ids_.find(token.content); it != ids_.end()) {
      token.id = it->second;
      return token;
    }
    QL_ASSIGN_OR_RETURN(token.id, TokenIdValue(Member(value, "id"), token_count_));
    QL_RETURN_IF_ERROR(ClaimId(token.id, token.content));
    ids_.emplace(token.content, token.id);
    return token;
  }

  absl::Status ReadPostProcessor(const json& processor, int depth) {
    constexpr int kMaxDepth = 8;
    if (processor.is_null()) return absl::OkStatus();
    if (depth > kMaxDepth) return Invalid("nested too deeply");
    if (!processor.is_object()) return Invalid("must be an object");
    const json& type = Member(processor, "type");
    if (type == "ByteLevel") return absl::OkStatus();  // changes offsets only
    if (type == "TemplateProcessing") return ReadTemplate(processor);
    const json& parts = Member(processor, "processors");
    if (type != "Sequence" || !parts.is_array()) {
      return Invalid("only ByteLevel, TemplateProcessing and a Sequence of them are supported");
    }
    for (const json& part : parts) QL_RETURN_IF_ERROR(ReadPostProcessor(part, depth + 1));
    return absl::OkStatus();
  }

  // {"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": ...}],
  //  "special_tokens": {"<s>": {"ids": [1]}}}
  absl::Status ReadTemplate(const json& processor) {
    const json& single = Member(processor, "single");
    if (!single.is_array()) return Invalid("'single' must be an array");
    if (single.empty() || !single[0].is_object()) return absl::OkStatus();
    const json& first = Member(single[0], "SpecialToken");
    if (first.is_null()) return absl::OkStatus();
    const json& name = first.is_object() ? Member(first, "id") : first;
    const json& specials = Member(processor, "special_tokens");
    if (!name.is_string() || !specials.is_object()) {
      return Invalid("'single' and 'special_tokens' do not fit together");
    }
    const json& special = Member(specials, name.get_ref<const std::string&>().c_str());
    const json& ids = special.is_object() ? Member(special, "ids") : special;
    if (!ids.is_array() || ids.size() != 1) {
      return Invalid("a special token before the text must be exactly one id");
    }
    QL_ASSIGN_OR_RETURN(const int32_t id, TokenIdValue(ids[0], token_count_));
    if (!spelling_of_id_[id].has_value()) {
      return Invalid(absl::StrCat("id ", id, " is not in the vocabulary"));
    }
    definition_.bos_to_add = id;
    return absl::OkStatus();
  }

  TokenizerDefinition definition_;
  size_t token_count_ = 0;  // vocabulary and added tokens
  SpellingToId ids_;
  std::vector<std::optional<std::string>> spelling_of_id_;
};

}  // namespace

absl::StatusOr<TokenizerDefinition> ParseTokenizerJson(absl::string_view text) {
  const absl::StatusOr<json> root = ParseJsonObject(text);
  if (!root.ok()) return Annotate(root.status(), "tokenizer.json");
  absl::StatusOr<TokenizerDefinition> definition = Reader().Read(*root);
  if (!definition.ok()) return Annotate(definition.status(), "tokenizer.json");
  return definition;
}

}  // namespace quantloom
