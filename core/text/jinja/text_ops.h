// What Python's str does, on valid UTF-8: indices count characters, white space is Unicode's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom::jinja {

// str.isspace of one character.
bool IsSpace(char32_t c);

// Length in bytes of the white space at the start and at the end of `text`.
size_t LeadingSpace(absl::string_view text);
size_t TrailingSpace(absl::string_view text);

enum class Side { kLeft = 1, kRight = 2, kBoth = 3 };
absl::string_view Strip(absl::string_view text, Side side);
// Strips every character that is in `characters`.
absl::string_view StripCharacters(absl::string_view text, absl::string_view characters, Side side);

// Byte offset of every character, and text.size() at the end.
std::vector<size_t> CharacterOffsets(absl::string_view text);

// str.splitlines: parts between line ends of every kind that Unicode knows.
std::vector<absl::string_view> SplitLines(absl::string_view text, bool keep_ends);

// First occurrence at or after `from`, npos when there is none; linear time whatever the needle.
size_t FindText(absl::string_view text, absl::string_view needle, size_t from = 0);

// Upper and lower case. INVALID_ARGUMENT for text beyond ASCII, whose case rules are not here.
enum class Case { kUpper, kLower, kCapitalized, kTitle };
absl::StatusOr<std::string> ToCase(absl::string_view text, Case target);

// repr() of a string: quoted, with what does not print escaped.
std::string ReprOfText(absl::string_view text);
// repr() of a float: the shortest digits that give it back.
std::string ReprOfFloat(double value);
// A JSON string literal as json.dumps writes it.
std::string JsonOfText(absl::string_view text, bool ensure_ascii);

}  // namespace quantloom::jinja
