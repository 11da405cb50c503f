#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/text/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <limits>
#include <new>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/text/utf8.h"

namespace quantloom {
namespace {

// Unicode's White_Space, inside of a class. PCRE2's own \s has U+180E besides, which lost that
// property in Unicode 6.3.
constexpr absl::string_view kWhiteSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr uint32_t kHeapLimitKib = 64 << 10;

// Rewrites Oniguruma's spelling into PCRE2's, or refuses; see regex.h.
class PatternTranslator {
 public:
  explicit PatternTranslator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Translate() {
    while (position_ < pattern_.size()) {
      const char c = pattern_[position_];
      if (c == '\\') {
        if (absl::Status status = Escape(); !status.ok()) return status;
        continue;
      }
      if (in_class_ && (c == '[' || pattern_.substr(position_, 2) == "&&")) {
        return Refuse("nested classes and class intersections are not supported");
      }
      if (!in_class_ && c == '(' && pattern_.substr(position_, 2) == "(*") {
        return Refuse("verbs are not supported");
      }
      if (!in_class_ && c == '[')
        EnterClass();
      else if (in_class_ && c == ']' && position_ > class_start_)
        in_class_ = false;
      out_.push_back(c);
      ++position_;
    }
    return out_;
  }

 private:
  void EnterClass() {
    in_class_ = true;
    class_start_ = position_ + 1;
    if (class_start_ < pattern_.size() && pattern_[class_start_] == '^') ++class_start_;
  }

  absl::Status Escape() {
    if (position_ + 1 == pattern_.size()) return Refuse("ends in a backslash");
    const char c = pattern_[position_ + 1];
    if (c == 's') {
      absl::StrAppend(&out_, in_class_ ? "" : "[", kWhiteSpace, in_class_ ? "" : "]");
    } else if (c == 'S' && !in_class_) {
      absl::StrAppend(&out_, "[^", kWhiteSpace, "]");
    } else if (c == 'u' && position_ + 6 <= pattern_.size()) {
      absl::StrAppend(&out_, "\\x{", pattern_.substr(position_ + 2, 4), "}");
      position_ += 4;
    } else if (absl::StrContains("pPdDrntfx", c) || !absl::ascii_isalnum(c)) {
      out_.append({'\\', c});
    } else {
      return Refuse(absl::StrCat("the escape \\", pattern_.substr(position_ + 1, 1),
                                 " is not supported", in_class_ ? " in a class" : ""));
    }
    position_ += 2;
    return absl::OkStatus();
  }

  absl::Status Refuse(absl::string_view reason) const {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression, byte ", position_, ": ", reason));
  }

  absl::string_view pattern_;
  size_t position_ = 0;
  bool in_class_ = false;
  size_t class_start_ = 0;  // where a ']' would still be an ordinary character
  std::string out_;
};

std::string Pcre2Message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

RegexScratch::RegexScratch()
    : match_data_(pcre2_match_data_create(1, nullptr)),
      match_context_(pcre2_match_context_create(nullptr)) {
  if (match_data_ == nullptr || match_context_ == nullptr) throw std::bad_alloc();
  pcre2_set_heap_limit(match_context_, kHeapLimitKib);
}

RegexScratch::~RegexScratch() {
  pcre2_match_data_free(match_data_);
  pcre2_match_context_free(match_context_);
}

void Regex::FreeCode::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError("regular expression is longer than 64 KiB");
  }
  if (!IsValidUtf8(pattern)) {
    return absl::InvalidArgumentError("regular expression is not valid UTF-8");
  }
  absl::StatusOr<std::string> translated = PatternTranslator(pattern).Translate();
  if (!translated.ok()) return translated.status();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression, near byte ", offset, ": ", Pcre2Message(error)));
  }
  // Where no JIT is available the interpreter runs; both obey the same limits.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return Regex(code);
}

Regex::Match Regex::Run(absl::string_view text, size_t from, uint32_t options,
                        RegexScratch& scratch) const {
  // A greedy run that backtracks over its whole length costs one step a character.
  constexpr uint64_t kBaseSteps = 1'000'000;
  constexpr uint64_t kStepsPerByte = 32;
  pcre2_set_match_limit(scratch.match_context_, static_cast<uint32_t>(std::min<uint64_t>(
                                                    kBaseSteps + kStepsPerByte * text.size(),
                                                    std::numeric_limits<uint32_t>::max())));
  const auto run = [&](uint32_t more_options) {
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       options | PCRE2_NO_UTF_CHECK | more_options, scratch.match_data_,
                       scratch.match_context_);
  };
  int rc = run(0);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(PCRE2_NO_JIT);
  if (rc == PCRE2_ERROR_NOMATCH) return {Match::Outcome::kNone};
  if (rc < 0) return {Match::Outcome::kGaveUp};
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch.match_data_);
  return {Match::Outcome::kFound, bounds[0], bounds[1]};
}

Regex::Match Regex::Find(absl::string_view text, size_t from, RegexScratch& scratch) const {
  return Run(text, from, 0, scratch);
}

bool Regex::MatchesPrefix(absl::string_view text, RegexScratch& scratch) const {
  return Run(text, 0, PCRE2_ANCHORED, scratch).outcome == Match::Outcome::kFound;
}

std::string EscapeForRegex(absl::string_view text) {
  std::string pattern;
  for (const char c : text) {
    const bool plain = absl::ascii_isalnum(c) || (static_cast<uint8_t>(c) & 0x80) != 0;
    if (!plain) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return pattern;
}

}  // namespace quantloom
