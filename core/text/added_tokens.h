// Added tokens: spellings that are found in the text itself, before any other processing, and
// become one token each (tokenizer.json's "added_tokens").
//
// Thread-safety: immutable after the last Add; a Scratch belongs to one call.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/regex.h"

namespace quantloom {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // found only when special tokens are to be parsed
  bool single_word = false;  // not next to a word character
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in what is left after the tokens that are not
};

class AddedTokens {
 public:
  static absl::StatusOr<AddedTokens> Create(std::vector<AddedToken> tokens);

  // Calls `emit` with the parts of `text` (valid UTF-8) in order: a token's id, or nullopt and a
  // stretch of ordinary text, not empty. At each place the longest token that begins there wins.
  // Linear in the text for a given set of tokens.
  using Emit = absl::FunctionRef<void(std::optional<int32_t> id, absl::string_view text)>;
  void Split(absl::string_view text, bool parse_special, RegexScratch& scratch, Emit emit) const;

 private:
  // The spellings of the tokens looked for in one pass, as a trie over bytes.
  class Trie {
   public:
    void Insert(absl::string_view spelling, uint32_t token);
    struct Match {
      size_t begin;
      size_t end;
      uint32_t token;
    };
    // The leftmost match at or after `from`, the longest of those that begin there.
    std::optional<Match> Find(absl::string_view text, size_t from) const;

   private:
    static constexpr uint32_t kNoToken = std::numeric_limits<uint32_t>::max();
    static uint64_t EdgeKey(uint32_t node, char byte) {
      return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
    }
    absl::flat_hash_map<uint64_t, uint32_t> edges_;
    std::vector<uint32_t> token_at_node_ = {kNoToken};
    std::vector<bool> starts_ = std::vector<bool>(256);  // bytes that begin a spelling
  };

  AddedTokens(std::vector<AddedToken> tokens, Regex word_character);
  void SplitPass(const Trie& trie, absl::string_view text, bool parse_special,
                 RegexScratch& scratch, Emit emit) const;
  bool TouchesWord(absl::string_view text, size_t begin, size_t end, RegexScratch& scratch) const;

  std::vector<AddedToken> tokens_;
  Trie verbatim_;
  Trie normalized_;
  Regex word_character_;
};

}  // namespace quantloom
