// UTF-8 on a terminal: validity, columns, cutting, and text that cannot steer the terminal.
#pragma once

#include <string>
#include <string_view>

namespace quantloom::cli {

// Whether the text is well-formed UTF-8 (no overlong forms, no surrogates, nothing past U+10FFFF).
bool IsUtf8(std::string_view text);

// Columns the text takes on a terminal: 2 for wide characters, 0 for combining ones and controls, 1
// for each byte that is not UTF-8.
int DisplayWidth(std::string_view text);

// The text, cut to at most `width` columns; "…" (or "~" without `unicode`) stands for what was cut,
// here out of the middle, since the two ends of a tensor name say most. O(text).
std::string ElideMiddle(std::string_view text, int width, bool unicode = true);

// The text without control characters but newline and tab: an escape sequence that a model writes,
// or that stands in a file name, must not reach a terminal. Bytes that are not UTF-8 become U+FFFD.
std::string TerminalSafe(std::string_view text);

// The same for a place on a line: newlines and tabs become spaces.
std::string OneLine(std::string_view text);

}  // namespace quantloom::cli
