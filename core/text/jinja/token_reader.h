// The tokens of a template as its parser reads them: one after another, with a look at the next.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/text/jinja/lexer.h"
#include "core/text/jinja/position.h"

namespace quantloom::jinja {

template <typename Names>
bool IsOneOf(absl::string_view name, const Names& names) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// Words that are no variable's name.
inline constexpr absl::string_view kReserved[] = {"and", "or", "not", "in", "is", "if", "else"};

class TokenReader {
 public:
  // `tokens` ends with kEnd.
  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  // Counts how deep the parser has recursed, for as long as it lives.
  class Nesting {
   public:
    explicit Nesting(TokenReader& reader) : reader_(reader) { ++reader_.nesting_; }
    ~Nesting() { --reader_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    absl::Status Check() const {
      if (reader_.nesting_ <= kMaxNesting) return absl::OkStatus();
      return reader_.Error("nested too deeply");
    }

   private:
    static constexpr int kMaxNesting = 64;
    TokenReader& reader_;
  };

  const Token& Current() const { return tokens_[next_]; }
  const Token& Peek() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  void Skip() {
    if (next_ + 1 < tokens_.size()) ++next_;
  }
  bool IsOperator(absl::string_view text) const {
    return Current().kind == Token::Kind::kOperator && Current().text == text;
  }
  bool IsName(absl::string_view text) const {
    return Current().kind == Token::Kind::kName && Current().text == text;
  }
  bool SkipOperator(absl::string_view text) {
    const bool skips = IsOperator(text);
    if (skips) Skip();
    return skips;
  }
  bool SkipName(absl::string_view text) {
    const bool skips = IsName(text);
    if (skips) Skip();
    return skips;
  }
  absl::Status Error(absl::string_view message) const {
    return ErrorAt(Current().position, message);
  }
  std::string CurrentText() const {
    switch (Current().kind) {
      case Token::Kind::kEnd:
        return "the end of the template";
      case Token::Kind::kBlockEnd:
      case Token::Kind::kOutputEnd:
        return "the end of the tag";
      default:
        return absl::StrCat("'", Current().text, "'");
    }
  }
  absl::Status Expected(absl::string_view what) const {
    return Error(absl::StrCat("expected ", what, ", found ", CurrentText()));
  }
  absl::Status ExpectOperator(absl::string_view text) {
    return SkipOperator(text) ? absl::OkStatus() : Expected(absl::StrCat("'", text, "'"));
  }
  absl::Status Expect(Token::Kind kind, absl::string_view what) {
    if (Current().kind != kind) return Expected(what);
    Skip();
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> NewName() {
    if (Current().kind != Token::Kind::kName || IsOneOf(Current().text, kReserved)) {
      return Expected("a name");
    }
    std::string name = Current().text;
    Skip();
    return name;
  }
  // A word that may be a reserved one: after a dot, a bar or at the beginning of a statement.
  absl::StatusOr<std::string> Word(absl::string_view what) {
    if (Current().kind != Token::Kind::kName) return Expected(what);
    std::string name = Current().text;
    Skip();
    return name;
  }

 private:
  const std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0;
};

}  // namespace quantloom::jinja
