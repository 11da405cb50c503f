#include "core/text/jinja/lexer.h"

#include <charconv>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"
#include "core/text/jinja/text_ops.h"
#include "core/text/utf8.h"

namespace quantloom::jinja {
namespace {

constexpr auto kNotFound = absl::string_view::npos;

// Line ends become '\n', and one at the very end of the template is not part of it.
std::string NormalizeLineEnds(absl::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      out.push_back('\n');
    }
  }
  if (absl::EndsWith(out, "\n")) out.pop_back();
  return out;
}

bool StartsName(char c) { return absl::ascii_isalpha(c) || c == '_'; }
bool ContinuesName(char c) { return absl::ascii_isalnum(c) || c == '_'; }

class Lexer {
 public:
  explicit Lexer(absl::string_view source) : source_(NormalizeLineEnds(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (offset_ < source_.size()) {
      const size_t tag = FindTag();
      if (tag == kNotFound) {
        EmitText(Rest());
        Advance(source_.size() - offset_);
        break;
      }
      QL_RETURN_IF_ERROR(TextAndTag(tag));
    }
    Emit(Token::Kind::kEnd);
    return std::move(tokens_);
  }

 private:
  absl::string_view Rest() const { return absl::string_view(source_).substr(offset_); }

  void Advance(size_t bytes) {
    for (const char c : Rest().substr(0, bytes)) {
      if (c == '\n') {
        ++position_.line;
        position_.column = 1;
      } else if ((static_cast<uint8_t>(c) & 0xC0) != 0x80) {
        ++position_.column;
      }
    }
    if (bytes > 0) after_line_end_ = source_[offset_ + bytes - 1] == '\n';
    offset_ += bytes;
  }

  void Emit(Token::Kind kind, absl::string_view text = "") {
    tokens_.push_back({kind, position_, std::string(text)});
  }

  void EmitText(absl::string_view text) {
    if (!text.empty()) Emit(Token::Kind::kText, text);
  }

  // Bytes from here to the next "{%", "{{" or "{#".
  size_t FindTag() const {
    const absl::string_view rest = Rest();
    for (size_t i = rest.find('{'); i != kNotFound; i = rest.find('{', i + 1)) {
      if (i + 1 < rest.size() && absl::StrContains("%{#", rest[i + 1])) return i;
    }
    return kNotFound;
  }

  // The text before a tag loses its white space as the tag's sign says: all of it for '-'; without
  // a sign, and not before "{{", what stands alone before the tag on its line (lstrip_blocks).
  absl::string_view StripBeforeTag(absl::string_view text, char tag, char sign) const {
    if (sign == '-') return Strip(text, Side::kRight);
    if (sign == '+' || tag == '{') return text;
    const size_t line_end = text.rfind('\n');
    if (line_end == kNotFound && !after_line_end_) return text;
    const size_t line_start = line_end == kNotFound ? 0 : line_end + 1;
    const bool only_space = LeadingSpace(text.substr(line_start)) == text.size() - line_start;
    return only_space ? text.substr(0, line_start) : text;
  }

  absl::Status TextAndTag(size_t tag_offset) {
    const absl::string_view text = Rest().substr(0, tag_offset);
    const absl::string_view tag = Rest().substr(tag_offset);
    const char sign = tag.size() > 2 && absl::StrContains("-+", tag[2]) ? tag[2] : '\0';
    EmitText(StripBeforeTag(text, tag[1], sign));
    Advance(tag_offset);
    tag_position_ = position_;
    const size_t begin_length = sign == '\0' ? 2 : 3;
    if (tag[1] == '#') return Comment(begin_length);
    if (tag[1] == '%') {
      if (const size_t raw = RawTagLength(tag.substr(begin_length), "raw"); raw != kNotFound) {
        return RawText(begin_length, raw);
      }
    }
    Emit(tag[1] == '%' ? Token::Kind::kBlockBegin : Token::Kind::kOutputBegin);
    Advance(begin_length);
    return Code(tag[1] == '%');
  }

  // Consumes a tag's end: "-%}" takes the white space after it along, "%}" one line end
  // (trim_blocks), "+%}" and "}}" nothing. `close` is "%}", "}}" or "#}".
  bool TryEnd(absl::string_view close) {
    const absl::string_view rest = Rest();
    const bool output = close == "}}";
    if (absl::StartsWith(rest, close)) {
      const bool line_end = !output && absl::StartsWith(rest.substr(2), "\n");
      Advance(line_end ? 3 : 2);
    } else if (rest[0] == '-' && absl::StartsWith(rest.substr(1), close)) {
      Advance(3 + LeadingSpace(rest.substr(3)));
    } else if (!output && rest[0] == '+' && absl::StartsWith(rest.substr(1), close)) {
      Advance(3);
    } else {
      return false;
    }
    return true;
  }

  absl::Status Comment(size_t begin_length) {
    Advance(begin_length);
    const absl::string_view rest = Rest();
    size_t end = rest.find("#}");
    if (end == kNotFound) return ErrorAt(tag_position_, "this comment does not end");
    if (end > 0 && absl::StrContains("-+", rest[end - 1])) --end;
    Advance(end);
    TryEnd("#}");
    return absl::OkStatus();
  }

  // Bytes of `name` and the white space around it when that is all the tag at `inside` holds.
  static size_t RawTagLength(absl::string_view inside, absl::string_view name) {
    const size_t space = LeadingSpace(inside);
    if (!absl::StartsWith(inside.substr(space), name)) return kNotFound;
    const size_t length = space + name.size();
    const size_t end = length + LeadingSpace(inside.substr(length));
    const absl::string_view close = inside.substr(end);
    const bool closes = absl::StartsWith(close, "%}") || absl::StartsWith(close, "-%}") ||
                        (name == "endraw" && absl::StartsWith(close, "+%}"));
    return closes ? end : kNotFound;
  }

  absl::Status RawText(size_t begin_length, size_t name_length) {
    Advance(begin_length + name_length);
    const bool strip = Rest()[0] == '-';
    Advance(strip ? 3 : 2);  // trim_blocks does not apply here
    if (strip) Advance(LeadingSpace(Rest()));
    const absl::string_view rest = Rest();
    for (size_t i = rest.find("{%"); i != kNotFound; i = rest.find("{%", i + 1)) {
      const absl::string_view tag = rest.substr(i + 2);
      const char sign = !tag.empty() && absl::StrContains("-+", tag[0]) ? tag[0] : '\0';
      const absl::string_view inside = tag.substr(sign == '\0' ? 0 : 1);
      const size_t length = RawTagLength(inside, "endraw");
      if (length == kNotFound) continue;
      EmitText(StripBeforeTag(rest.substr(0, i), '%', sign));
      Advance(i + 2 + (sign == '\0' ? 0 : 1) + length);
      TryEnd("%}");
      return absl::OkStatus();
    }
    return ErrorAt(tag_position_, "this raw block does not end");
  }

  // Tokens up to the end of the tag. Inside brackets "}}" closes two of them, not the tag.
  absl::Status Code(bool block) {
    const absl::string_view close = block ? "%}" : "}}";
    std::string open;
    while (true) {
      Advance(LeadingSpace(Rest()));
      if (Rest().empty()) return ErrorAt(tag_position_, "this tag does not end");
      if (open.empty()) {
        const Position position = position_;
        if (TryEnd(close)) {
          tokens_.push_back(
              {block ? Token::Kind::kBlockEnd : Token::Kind::kOutputEnd, position, ""});
          return absl::OkStatus();
        }
      }
      QL_RETURN_IF_ERROR(CodeToken(open));
    }
  }

  absl::Status CodeToken(std::string& open) {
    const char c = Rest()[0];
    if (StartsName(c)) {
      size_t length = 1;
      while (length < Rest().size() && ContinuesName(Rest()[length])) ++length;
      Emit(Token::Kind::kName, Rest().substr(0, length));
      Advance(length);
      return absl::OkStatus();
    }
    if (absl::ascii_isdigit(c)) return Number();
    if (c == '\'' || c == '"') return StringLiteral(c);
    return Operator(open);
  }

  absl::Status Operator(std::string& open) {
    constexpr absl::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    const absl::string_view rest = Rest();
    size_t length = 1;
    for (const absl::string_view two : kTwo) {
      if (absl::StartsWith(rest, two)) length = 2;
    }
    const char c = rest[0];
    if (length == 1 && !absl::StrContains("+-/*%~[](){}<>=.:|,;", c)) {
      const Utf8Unit unit = DecodeUtf8(rest);
      return ErrorAt(position_,
                     absl::StrCat("unexpected character '", rest.substr(0, unit.length), "'"));
    }
    if (absl::StrContains("([{", c)) open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (absl::StrContains(")]}", c)) {
      if (open.empty() || open.back() != c) {
        return ErrorAt(position_, absl::StrCat("unexpected '", rest.substr(0, 1), "'"));
      }
      open.pop_back();
    }
    Emit(Token::Kind::kOperator, rest.substr(0, length));
    Advance(length);
    return absl::OkStatus();
  }

  // 12, 1_000, 1.5, 2e-3; other bases are not supported.
  absl::Status Number() {
    const absl::string_view rest = Rest();
    size_t length = 0;
    const auto digits = [&] {
      while (length < rest.size() && (absl::ascii_isdigit(rest[length]) ||
                                      (rest[length] == '_' && length + 1 < rest.size() &&
                                       absl::ascii_isdigit(rest[length + 1])))) {
        ++length;
      }
    };
    const auto digit_at = [&](size_t i) { return i < rest.size() && absl::ascii_isdigit(rest[i]); };
    digits();
    bool real = false;
    if (length < rest.size() && rest[length] == '.' && digit_at(length + 1)) {
      real = true;
      ++length;
      digits();
    }
    if (length < rest.size() && (rest[length] | 0x20) == 'e') {
      const size_t sign = length + 1 < rest.size() && absl::StrContains("+-", rest[length + 1]);
      if (digit_at(length + 1 + sign)) {
        real = true;
        length += 1 + sign;
        digits();
      }
    }
    if (length < rest.size() && ContinuesName(rest[length])) {
      return ErrorAt(position_, "malformed number");
    }
    std::string text(rest.substr(0, length));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Token token{real ? Token::Kind::kFloat : Token::Kind::kInteger, position_, text};
    const char* end = text.data() + text.size();
    const std::from_chars_result result = real ? std::from_chars(text.data(), end, token.real)
                                               : std::from_chars(text.data(), end, token.integer);
    if (result.ec != std::errc() || result.ptr != end) {
      return ErrorAt(position_, absl::StrCat("the number ", text, " is out of range"));
    }
    tokens_.push_back(std::move(token));
    Advance(length);
    return absl::OkStatus();
  }

  absl::Status StringLiteral(char quote) {
    const absl::string_view rest = Rest();
    size_t end = 1;
    while (end < rest.size() && rest[end] != quote) end += rest[end] == '\\' ? 2 : 1;
    if (end >= rest.size()) return ErrorAt(position_, "this string does not end");
    std::string value;
    absl::string_view inside = rest.substr(1, end - 1);
    while (!inside.empty()) {
      if (inside[0] != '\\') {
        value.push_back(inside[0]);
        inside.remove_prefix(1);
      } else if (const absl::Status status = Escape(inside, value); !status.ok()) {
        return At(position_, status);
      }
    }
    Emit(Token::Kind::kString, value);
    Advance(end + 1);
    return absl::OkStatus();
  }

  // Python's escapes; an unknown one stays as it is. `text` begins with the backslash.
  static absl::Status Escape(absl::string_view& text, std::string& out) {
    constexpr absl::string_view kNames = "\\'\"abfnrtv";
    constexpr absl::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
    const char c = text[1];
    if (const size_t i = kNames.find(c); i != kNotFound) {
      out.push_back(kValues[i]);
      text.remove_prefix(2);
    } else if (c == '\n') {
      text.remove_prefix(2);
    } else if (c >= '0' && c <= '7') {
      size_t digits = 1;
      while (digits < 3 && 1 + digits < text.size() && text[1 + digits] >= '0' &&
             text[1 + digits] <= '7') {
        ++digits;
      }
      return CodePoint(text, 1, digits, 8, out);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      return CodePoint(text, 2, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16, out);
    } else if (c == 'N') {
      return absl::InvalidArgumentError("the escape \\N is not supported");
    } else {
      out.push_back('\\');
      text.remove_prefix(1);
    }
    return absl::OkStatus();
  }

  static absl::Status CodePoint(absl::string_view& text, size_t skip, size_t digits, int base,
                                std::string& out) {
    uint32_t code = 0;
    const absl::string_view number = text.substr(skip, digits);
    const char* end = number.data() + number.size();
    const std::from_chars_result result = std::from_chars(number.data(), end, code, base);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    if (number.size() != digits || result.ptr != end || result.ec != std::errc() ||
        code > 0x10FFFF || surrogate) {
      return absl::InvalidArgumentError("malformed escape in a string");
    }
    AppendUtf8(code, out);
    text.remove_prefix(skip + digits);
    return absl::OkStatus();
  }

  const std::string source_;
  size_t offset_ = 0;
  Position position_;
  Position tag_position_;       // of the tag being read
  bool after_line_end_ = true;  // what was consumed last ended in a line end
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  return Lexer(source).Run();
}

}  // namespace quantloom::jinja
