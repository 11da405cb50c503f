// Pre-tokenizers: cut a text into the pieces that byte pair encoding works on, one by one.
//
// A chain of steps, as tokenizer.json's "pre_tokenizer" defines it: Split (regular expression),
// Digits, ByteLevel (GPT-2's expression, optional leading space), Sequence. ByteLevel must be the
// last, since what follows it would see its alphabet in place of the text.
//
// Thread-safety: immutable; a Scratch belongs to one call.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/regex.h"
#include "nlohmann/json_fwd.hpp"

namespace quantloom {

// Radford et al. 2019, the released GPT-2 encoder: contractions, then runs of letters, of numbers
// and of the rest, each with at most one space before it; a run of white space gives its last
// character to the word that follows.
inline constexpr absl::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  // INVALID_ARGUMENT naming the member that is malformed or not supported.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json& definition);

  // Storage of one call: pieces stay valid while it lives.
  class Scratch {
   public:
    RegexScratch& regex() { return regex_; }

   private:
    friend class PreTokenizer;
    RegexScratch regex_;
    std::deque<std::string> prefixed_;
  };
  // Calls `emit` with every piece of `text` (valid UTF-8), none of them empty, in order. Where a
  // step's expression passes its limits the rest of that text is one piece.
  using Emit = absl::FunctionRef<void(absl::string_view piece)>;
  void Split(absl::string_view text, Scratch& scratch, Emit emit) const {
    RunSteps(text, 0, scratch, emit);
  }

 private:
  struct Step {
    enum class Kind {
      kIsolate,      // matches and what is between them are pieces
      kDropMatches,  // only what is between matches is
      kKeepMatches,  // only matches are
      kPrefixSpace,  // puts a space before a text that does not begin with one
    };
    Kind kind;
    std::optional<Regex> regex;  // none for kPrefixSpace
  };

  absl::Status Append(const nlohmann::json& definition, int depth);
  absl::Status AppendSplit(const nlohmann::json& definition);
  absl::Status AppendByteLevel(const nlohmann::json& definition);
  absl::Status AppendRegex(Step::Kind kind, absl::string_view pattern);
  void RunSteps(absl::string_view text, size_t step, Scratch& scratch, Emit emit) const;
  void RunRegex(absl::string_view text, size_t step, Scratch& scratch, Emit emit) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace quantloom
