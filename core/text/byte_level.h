// GPT-2's byte-level alphabet: every byte has a visible character, so that a vocabulary of byte
// strings can be written as text. Bytes that print in Latin-1 stand for themselves; the other 68
// become U+0100 .. U+0143 in ascending order.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace quantloom {

// The bytes that `spelling` (valid UTF-8) stands for; nullopt when a character of it is outside the
// alphabet.
std::optional<std::string> BytesOfSpelling(absl::string_view spelling);

// The inverse: `bytes` in the alphabet.
std::string SpellingOfBytes(absl::string_view bytes);

}  // namespace quantloom
