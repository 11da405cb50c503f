#include "cli/utf8.h"

#include <algorithm>
#include <clocale>
#include <cstdint>
#include <cwchar>
#include <vector>

namespace quantloom::cli {
namespace {

struct CodePoint {
  uint32_t value;
  size_t bytes;
  bool valid;
};

// The code point at the start of `text` (not empty); an ill-formed byte stands alone. Unicode 15,
// table 3-7.
CodePoint Decode(std::string_view text) {
  const auto byte = [&](size_t i) -> uint32_t { return static_cast<unsigned char>(text[i]); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const size_t length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length == 0 || text.size() < length) return {0xFFFD, 1, false};
  uint32_t value = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {0xFFFD, 1, false};
    value = value << 6 | (byte(i) & 0x3F);
  }
  const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  const bool surrogate = value >= 0xD800 && value < 0xE000;
  if (overlong || surrogate || value > 0x10FFFF) return {0xFFFD, 1, false};
  return {value, length, true};
}

// wcwidth asks the thread's locale; the C library's tables for UTF-8 are the ones wanted, whatever
// LANG says.
int Columns(uint32_t code_point) {
  static const locale_t kUtf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (code_point < 0x7F || kUtf8 == nullptr) return code_point >= 0x20 ? 1 : 0;
  const locale_t before = uselocale(kUtf8);
  const int columns = wcwidth(static_cast<wchar_t>(code_point));
  uselocale(before);
  return columns < 0 ? 0 : columns;
}

bool IsControl(uint32_t code_point) {
  return code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0);
}

}  // namespace

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const CodePoint point = Decode(text);
    if (!point.valid) return false;
    text.remove_prefix(point.bytes);
  }
  return true;
}

int DisplayWidth(std::string_view text) {
  int width = 0;
  while (!text.empty()) {
    const CodePoint point = Decode(text);
    width += Columns(point.value);
    text.remove_prefix(point.bytes);
  }
  return width;
}

std::string ElideMiddle(std::string_view text, int width, bool unicode) {
  if (width <= 0) return "";
  if (DisplayWidth(text) <= width) return std::string(text);
  struct Glyph {
    size_t begin;
    int columns;
  };
  std::vector<Glyph> glyphs;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = Decode(text.substr(at));
    glyphs.push_back({at, Columns(point.value)});
    at += point.bytes;
  }
  const int room = width - 1;  // one column for the mark
  size_t head = 0;
  for (int used = 0; used + glyphs[head].columns <= room / 2; ++head) used += glyphs[head].columns;
  size_t tail = glyphs.size();
  for (int used = 0; tail > head && used + glyphs[tail - 1].columns <= room - room / 2; --tail) {
    used += glyphs[tail - 1].columns;
  }
  std::string cut(text.substr(0, glyphs[head].begin));
  cut += unicode ? "…" : "~";
  if (tail < glyphs.size()) cut += text.substr(glyphs[tail].begin);
  return cut;
}

std::string TerminalSafe(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  while (!text.empty()) {
    const CodePoint point = Decode(text);
    if (!point.valid) {
      safe += "\xEF\xBF\xBD";
    } else if (!IsControl(point.value) || point.value == '\n' || point.value == '\t') {
      safe += text.substr(0, point.bytes);
    }
    text.remove_prefix(point.bytes);
  }
  return safe;
}

std::string OneLine(std::string_view text) {
  std::string line = TerminalSafe(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  return line;
}

}  // namespace quantloom::cli
