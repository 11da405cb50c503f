#include "core/text/tokenizer.h"

#include <array>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/added_tokens.h"
#include "core/text/bpe.h"
#include "core/text/byte_level.h"
#include "core/text/pre_tokenizer.h"
#include "core/text/tokenizer_json.h"
#include "core/text/utf8.h"

namespace quantloom {
namespace {

class ByteLevelBpeTokenizer final : public Tokenizer {
 public:
  ByteLevelBpeTokenizer(TokenizerDefinition definition, AddedTokens added_tokens)
      : tokens_(definition.vocab_size),
        added_tokens_(std::move(added_tokens)),
        pre_tokenizer_(std::move(definition.pre_tokenizer)),
        bpe_(ByteIds(definition), {definition.unknown_id, definition.fuse_unknown}),
        bos_to_add_(definition.bos_to_add) {
    for (const TokenizerDefinition::Merge& merge : definition.merges) {
      bpe_.AddMerge(merge.left, merge.right, merge.merged);
    }
    for (TokenizerDefinition::VocabEntry& entry : definition.vocab) {
      std::optional<std::string> bytes = BytesOfSpelling(entry.spelling);
      if (definition.ignore_merges && bytes.has_value()) bpe_.AddWholePiece(*bytes, entry.id);
      SetToken(entry.id, std::move(entry.spelling), std::move(bytes), /*special=*/false);
    }
    for (AddedToken& token : definition.added_tokens) {
      SetToken(token.id, token.content, BytesOfSpelling(token.content), token.special);
    }
  }

  std::vector<int32_t> Encode(absl::string_view text, bool parse_special) const override {
    std::string replaced;
    if (!IsValidUtf8(text)) {
      replaced = ReplaceInvalidUtf8(text);
      text = replaced;
    }
    std::vector<int32_t> ids;
    PreTokenizer::Scratch scratch;
    Bpe::Workspace workspace(ids);
    added_tokens_.Split(text, parse_special, scratch.regex(),
                        [&](std::optional<int32_t> id, absl::string_view part) {
                          if (id.has_value()) {
                            ids.push_back(*id);
                          } else {
                            pre_tokenizer_.Split(part, scratch, [&](absl::string_view piece) {
                              bpe_.Encode(piece, workspace);
                            });
                          }
                        });
    return ids;
  }

  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool skip_special) const override {
    std::string bytes;
    for (const int32_t id : ids) {
      if (!InVocabulary(id)) {
        return absl::InvalidArgumentError(
            absl::StrCat("token id ", id, " is not in the vocabulary of ", vocab_size()));
      }
      if (!skip_special || !tokens_[id].special) bytes += tokens_[id].bytes;
    }
    return bytes;
  }

  std::string TokenBytes(int32_t id) const override {
    return InVocabulary(id) ? tokens_[id].bytes : "";
  }
  bool IsSpecial(int32_t id) const override { return InVocabulary(id) && tokens_[id].special; }
  std::optional<int32_t> TokenId(absl::string_view token) const override {
    const auto it = ids_.find(token);
    return it == ids_.end() ? std::nullopt : std::make_optional(it->second);
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  std::optional<int32_t> bos_to_add() const override { return bos_to_add_; }

 private:
  struct Token {
    std::string bytes;
    bool special = false;
  };

  static std::array<int32_t, 256> ByteIds(const TokenizerDefinition& definition) {
    std::array<int32_t, 256> ids;
    ids.fill(Bpe::kNoToken);
    for (const TokenizerDefinition::VocabEntry& entry : definition.vocab) {
      const std::optional<std::string> bytes = BytesOfSpelling(entry.spelling);
      if (bytes.has_value() && bytes->size() == 1) {
        ids[static_cast<uint8_t>(bytes->front())] = entry.id;
      }
    }
    return ids;
  }

  void SetToken(int32_t id, std::string spelling, std::optional<std::string> bytes, bool special) {
    // A spelling outside the byte-level alphabet stands for itself.
    tokens_[id] = {bytes.has_value() ? *std::move(bytes) : spelling, special};
    ids_[std::move(spelling)] = id;
  }

  bool InVocabulary(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens_.size();
  }

  std::vector<Token> tokens_;                      // by id
  absl::flat_hash_map<std::string, int32_t> ids_;  // by spelling
  AddedTokens added_tokens_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  std::optional<int32_t> bos_to_add_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(absl::string_view json) {
  QL_ASSIGN_OR_RETURN(TokenizerDefinition definition, ParseTokenizerJson(json));
  QL_ASSIGN_OR_RETURN(AddedTokens added_tokens, AddedTokens::Create(definition.added_tokens));
  return std::make_unique<ByteLevelBpeTokenizer>(std::move(definition), std::move(added_tokens));
}

}  // namespace quantloom
