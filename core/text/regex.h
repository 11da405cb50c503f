// Regular expressions over UTF-8 as tokenizer.json means them, on PCRE2.
//
// Those files are written for Oniguruma with Ruby syntax. The subset where both engines mean the
// same is accepted; what differs is rewritten (\s, \uHHHH) or refused (\w, \h, nested classes).
//
// Thread-safety: Regex is immutable and may be shared; a RegexScratch belongs to one thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;

namespace quantloom {

// What one search needs beside the expression; reusable for any number of searches with any
// expression.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  pcre2_real_match_data_8* match_data_;
  pcre2_real_match_context_8* match_context_;
};

class Regex {
 public:
  // INVALID_ARGUMENT with the reason and position for a malformed or refused pattern.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);

  struct Match {
    // kGaveUp: the search passed its limits, which grow linearly with the text. Only patterns with
    // exponential backtracking do.
    enum class Outcome { kFound, kNone, kGaveUp };
    Outcome outcome;
    size_t begin = 0;
    size_t end = 0;
  };
  // The leftmost match in text[from, text.size()); what lies before `from` is context. `text` must
  // be valid UTF-8 and `from` a character's start.
  Match Find(absl::string_view text, size_t from, RegexScratch& scratch) const;
  // Whether a match begins exactly at the start of `text`.
  bool MatchesPrefix(absl::string_view text, RegexScratch& scratch) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };
  explicit Regex(pcre2_real_code_8* code) : code_(code) {}
  Match Run(absl::string_view text, size_t from, uint32_t options, RegexScratch& scratch) const;

  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;
};

// `text` as a pattern that matches exactly it.
std::string EscapeForRegex(absl::string_view text);

}  // namespace quantloom
