#include "core/text/jinja/text_ops.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/text/regex.h"
#include "core/text/utf8.h"

namespace quantloom::jinja {
namespace {

// Start of the last character of `text`, which is not empty.
size_t LastCharacter(absl::string_view text) {
  size_t i = text.size() - 1;
  while (i > 0 && (static_cast<uint8_t>(text[i]) & 0xC0) == 0x80) --i;
  return i;
}

template <typename Predicate>
absl::string_view StripWhile(absl::string_view text, Side side, Predicate strips) {
  const auto sides = static_cast<int>(side);
  while ((sides & static_cast<int>(Side::kLeft)) != 0 && !text.empty()) {
    const Utf8Unit unit = DecodeUtf8(text);
    if (!strips(unit.code_point)) break;
    text.remove_prefix(unit.length);
  }
  while ((sides & static_cast<int>(Side::kRight)) != 0 && !text.empty()) {
    const size_t last = LastCharacter(text);
    if (!strips(DecodeUtf8(text.substr(last)).code_point)) break;
    text = text.substr(0, last);
  }
  return text;
}

bool Prints(absl::string_view character) {
  if (character.size() == 1) return absl::ascii_isprint(character[0]);
  static const Regex* const kHidden = new Regex(Regex::Compile(R"([\p{C}\p{Z}])").value());
  RegexScratch scratch;
  return !kHidden->MatchesPrefix(character, scratch);
}

}  // namespace

bool IsSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

size_t LeadingSpace(absl::string_view text) {
  return text.size() - Strip(text, Side::kLeft).size();
}

size_t TrailingSpace(absl::string_view text) {
  return text.size() - Strip(text, Side::kRight).size();
}

absl::string_view Strip(absl::string_view text, Side side) {
  return StripWhile(text, side, IsSpace);
}

absl::string_view StripCharacters(absl::string_view text, absl::string_view characters, Side side) {
  std::u32string set;
  for (absl::string_view rest = characters; !rest.empty();) {
    const Utf8Unit unit = DecodeUtf8(rest);
    set.push_back(unit.code_point);
    rest.remove_prefix(unit.length);
  }
  std::sort(set.begin(), set.end());
  return StripWhile(text, side,
                    [&](char32_t c) { return std::binary_search(set.begin(), set.end(), c); });
}

std::vector<size_t> CharacterOffsets(absl::string_view text) {
  std::vector<size_t> offsets;
  for (size_t i = 0; i < text.size(); i += DecodeUtf8(text.substr(i)).length) offsets.push_back(i);
  offsets.push_back(text.size());
  return offsets;
}

std::vector<absl::string_view> SplitLines(absl::string_view text, bool keep_ends) {
  std::vector<absl::string_view> lines;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = DecodeUtf8(text.substr(i));
    const char32_t c = unit.code_point;
    const bool ends = (c >= 0xA && c <= 0xD) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    const size_t line_end = i;
    i += unit.length;
    if (!ends) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(start, (keep_ends ? i : line_end) - start));
    start = i;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

size_t FindText(absl::string_view text, absl::string_view needle, size_t from) {
  if (from > text.size()) return absl::string_view::npos;
  if (needle.empty()) return from;
  // memmem's two-way search is linear; std::string::find is not.
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (found == nullptr) return absl::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

absl::StatusOr<std::string> ToCase(absl::string_view text, Case target) {
  std::string out(text);
  bool word_start = true;
  for (char& c : out) {
    if ((static_cast<uint8_t>(c) & 0x80) != 0) {
      return absl::InvalidArgumentError("changing the case of text beyond ASCII is not supported");
    }
    const bool upper = target == Case::kUpper || (target != Case::kLower && word_start);
    word_start = target == Case::kTitle && !absl::ascii_isalpha(c);
    c = upper ? absl::ascii_toupper(c) : absl::ascii_tolower(c);
  }
  return out;
}

std::string ReprOfText(absl::string_view text) {
  // Python prefers single quotes, unless only they occur in the text.
  const bool has_single = text.find('\'') != absl::string_view::npos;
  const char quote = has_single && text.find('"') == absl::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  while (!text.empty()) {
    const Utf8Unit unit = DecodeUtf8(text);
    const absl::string_view character = text.substr(0, unit.length);
    const auto code = static_cast<uint32_t>(unit.code_point);
    if (code == static_cast<uint32_t>(quote) || code == '\\') {
      absl::StrAppend(&out, "\\", character);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (Prints(character)) {
      absl::StrAppend(&out, character);
    } else if (code < 0x100) {
      absl::StrAppendFormat(&out, "\\x%02x", code);
    } else if (code < 0x10000) {
      absl::StrAppendFormat(&out, "\\u%04x", code);
    } else {
      absl::StrAppendFormat(&out, "\\U%08x", code);
    }
    text.remove_prefix(unit.length);
  }
  out.push_back(quote);
  return out;
}

std::string ReprOfFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  // Python writes an exponent below 1e-4 and from 1e16 on.
  const double size = std::fabs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, format).ptr;
  std::string out(buffer, end);
  if (plain && out.find('.') == std::string::npos) out += ".0";
  return out;
}

std::string JsonOfText(absl::string_view text, bool ensure_ascii) {
  std::string out = "\"";
  while (!text.empty()) {
    const Utf8Unit unit = DecodeUtf8(text);
    const auto code = static_cast<uint32_t>(unit.code_point);
    constexpr absl::string_view kNamed = "\"\\\n\r\t\f\b";
    constexpr absl::string_view kNames = "\"\\nrtfb";
    const size_t named = code < 0x80 ? kNamed.find(static_cast<char>(code)) : kNamed.npos;
    if (named != kNamed.npos) {
      out += {'\\', kNames[named]};
    } else if (code < 0x20 || (ensure_ascii && code >= 0x7F && code < 0x10000)) {
      absl::StrAppendFormat(&out, "\\u%04x", code);
    } else if (ensure_ascii && code >= 0x10000) {
      absl::StrAppendFormat(&out, "\\u%04x\\u%04x", 0xD7C0 + (code >> 10), 0xDC00 | (code & 0x3FF));
    } else {
      absl::StrAppend(&out, text.substr(0, unit.length));
    }
    text.remove_prefix(unit.length);
  }
  out.push_back('"');
  return out;
}

}  // namespace quantloom::jinja
