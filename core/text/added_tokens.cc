#include "core/text/added_tokens.h"

#include <utility>

#include "core/base/status.h"
#include "core/text/utf8.h"

namespace quantloom {
namespace {

// \w of Unicode Technical Standard 18, annex C.
constexpr absl::string_view kWordCharacter = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])";

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Start of the last character of `text`, which is valid UTF-8 and not empty.
size_t LastCharacter(absl::string_view text) {
  size_t i = text.size() - 1;
  while (i > 0 && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80) --i;
  return i;
}

// Where the white space begins that ends at `end`, but not before `floor`.
size_t WhiteSpaceBefore(absl::string_view text, size_t floor, size_t end) {
  while (end > floor) {
    const size_t last = LastCharacter(text.substr(0, end));
    if (!IsWhiteSpace(DecodeUtf8(text.substr(last)).code_point)) break;
    end = last;
  }
  return end;
}

// The end of runs of white space, found once for each run however often it is asked for.
class WhiteSpaceRuns {
 public:
  explicit WhiteSpaceRuns(absl::string_view text) : text_(text) {}

  size_t EndAfter(size_t position) {
    if (position >= known_begin_ && position < known_end_) return known_end_;
    size_t end = position;
    while (end < text_.size()) {
      const Utf8Unit unit = DecodeUtf8(text_.substr(end));
      if (!IsWhiteSpace(unit.code_point)) break;
      end += unit.length;
    }
    known_begin_ = position;
    known_end_ = end;
    return end;
  }

 private:
  absl::string_view text_;
  size_t known_begin_ = 0;
  size_t known_end_ = 0;
};

}  // namespace

absl::StatusOr<AddedTokens> AddedTokens::Create(std::vector<AddedToken> tokens) {
  QL_ASSIGN_OR_RETURN(Regex word_character, Regex::Compile(kWordCharacter));
  return AddedTokens(std::move(tokens), std::move(word_character));
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, Regex word_character)
    : tokens_(std::move(tokens)), word_character_(std::move(word_character)) {
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    (tokens_[i].normalized ? normalized_ : verbatim_).Insert(tokens_[i].content, i);
  }
}

void AddedTokens::Trie::Insert(absl::string_view spelling, uint32_t token) {
  uint32_t node = 0;
  for (const char byte : spelling) {
    const auto [it, is_new] =
        edges_.try_emplace(EdgeKey(node, byte), static_cast<uint32_t>(token_at_node_.size()));
    if (is_new) token_at_node_.push_back(kNoToken);
    node = it->second;
  }
  token_at_node_[node] = token;
  starts_[static_cast<uint8_t>(spelling[0])] = true;
}

std::optional<AddedTokens::Trie::Match> AddedTokens::Trie::Find(absl::string_view text,
                                                                size_t from) const {
  if (edges_.empty()) return std::nullopt;
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      const auto edge = edges_.find(EdgeKey(node, text[i]));
      if (edge == edges_.end()) break;
      node = edge->second;
      if (token_at_node_[node] != kNoToken) longest = Match{begin, i + 1, token_at_node_[node]};
    }
    if (longest.has_value()) return longest;
  }
  return std::nullopt;
}

void AddedTokens::Split(absl::string_view text, bool parse_special, RegexScratch& scratch,
                        Emit emit) const {
  SplitPass(verbatim_, text, parse_special, scratch,
            [&](std::optional<int32_t> id, absl::string_view part) {
              if (id.has_value()) {
                emit(id, part);
              } else {
                SplitPass(normalized_, part, parse_special, scratch, emit);
              }
            });
}

void AddedTokens::SplitPass(const Trie& trie, absl::string_view text, bool parse_special,
                            RegexScratch& scratch, Emit emit) const {
  WhiteSpaceRuns white_space(text);
  size_t done = 0;  // text before it has been emitted
  size_t from = 0;
  while (const auto match = trie.Find(text, from)) {
    from = match->end;
    const AddedToken& token = tokens_[match->token];
    if (token.special && !parse_special) continue;
    if (token.single_word && TouchesWord(text, match->begin, match->end, scratch)) continue;
    const size_t begin = token.lstrip ? WhiteSpaceBefore(text, done, match->begin) : match->begin;
    const size_t end = token.rstrip ? white_space.EndAfter(match->end) : match->end;
    if (begin > done) emit(std::nullopt, text.substr(done, begin - done));
    emit(token.id, text.substr(begin, end - begin));
    done = end;
  }
  if (done < text.size()) emit(std::nullopt, text.substr(done));
}

bool AddedTokens::TouchesWord(absl::string_view text, size_t begin, size_t end,
                              RegexScratch& scratch) const {
  const absl::string_view before = text.substr(0, begin);
  return (!before.empty() &&
          word_character_.MatchesPrefix(before.substr(LastCharacter(before)), scratch)) ||
         word_character_.MatchesPrefix(text.substr(end), scratch);
}

}  // namespace quantloom
