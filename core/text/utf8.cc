#include "core/text/utf8.h"

#include <algorithm>
#include <cstring>

namespace quantloom {
namespace {

struct LeadByte {
  uint32_t length;         // of the whole sequence; 0 for a byte that cannot start one
  uint8_t second_min = 0;  // range of the second byte; later ones are 80..BF
  uint8_t second_max = 0;
};

// Table 3-7 of the Unicode standard: well-formed UTF-8 byte sequences.
LeadByte Classify(uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

// Length of the prefix of `text` that is ASCII, found eight bytes at a time (may stop up to seven
// bytes early).
size_t AsciiPrefix(absl::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t block;
    std::memcpy(&block, text.data() + i, 8);
    if ((block & 0x8080808080808080u) != 0) break;
  }
  return i;
}

}  // namespace

Utf8Unit DecodeUtf8(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (byte(0) < 0x80) return {Utf8Unit::Kind::kCharacter, 1, byte(0)};
  const LeadByte lead = Classify(byte(0));
  if (lead.length == 0) return {Utf8Unit::Kind::kBroken, 1, 0xFFFD};
  char32_t code_point = byte(0) & (0x7Fu >> lead.length);
  for (uint32_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Unit::Kind::kUnfinished, i, 0xFFFD};
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte(i) < min || byte(i) > max) return {Utf8Unit::Kind::kBroken, i, 0xFFFD};
    code_point = code_point << 6 | (byte(i) & 0x3Fu);
  }
  return {Utf8Unit::Kind::kCharacter, lead.length, code_point};
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto put = [&](char32_t bits) { out.push_back(static_cast<char>(bits)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

bool IsValidUtf8(absl::string_view text) {
  while (true) {
    text.remove_prefix(AsciiPrefix(text));
    if (text.empty()) return true;
    // A few characters one by one before the next attempt at whole blocks.
    for (int i = 0; i < 8 && !text.empty(); ++i) {
      const Utf8Unit unit = DecodeUtf8(text);
      if (unit.kind != Utf8Unit::Kind::kCharacter) return false;
      text.remove_prefix(unit.length);
    }
  }
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Unit unit = DecodeUtf8(text);
    const absl::string_view piece = unit.kind == Utf8Unit::Kind::kCharacter
                                        ? text.substr(0, unit.length)
                                        : kReplacementCharacter;
    out.append(piece.data(), piece.size());
    text.remove_prefix(unit.length);
  }
  return out;
}

size_t CountCharacters(absl::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

}  // namespace quantloom
