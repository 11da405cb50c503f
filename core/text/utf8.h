// UTF-8: one decoder whose view of broken input is the one that everything in this folder shares.
//
// Broken input is cut the way the Unicode standard recommends (section 3.9, "substitution of
// maximal subparts") and the way Python's errors="replace" and Rust's from_utf8_lossy do: the
// longest prefix of a well-formed sequence is one error, else one byte is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace quantloom {

inline constexpr absl::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Unit {
  enum class Kind {
    kCharacter,  // a well-formed character
    kBroken,     // a maximal subpart that no continuation can complete
    kUnfinished  // a well-formed prefix that the end of the text cuts off
  };
  Kind kind;
  uint32_t length;      // bytes, 1 .. 4
  char32_t code_point;  // of a kCharacter, else U+FFFD
};

// The unit at the start of `text`, which must not be empty.
Utf8Unit DecodeUtf8(absl::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);

bool IsValidUtf8(absl::string_view text);

// `text` with every broken or unfinished sequence replaced by one U+FFFD.
std::string ReplaceInvalidUtf8(absl::string_view text);

// Number of characters in valid UTF-8.
size_t CountCharacters(absl::string_view text);

}  // namespace quantloom
