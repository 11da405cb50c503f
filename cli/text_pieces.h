// Cutting a long text where its tokens are cut anyway.
#pragma once

#include <cstddef>
#include <string_view>

namespace quantloom::cli {

// The text's beginning, of at most `max_bytes` where that can be, such that tokenizing it and the
// rest on their own by byte-level BPE gives the tokens of the whole. It ends after a newline: one
// between two lines of text, or one that a single space follows. Where there is no such place in
// `max_bytes`, the first one after it, or the whole text.
std::string_view FirstPiece(std::string_view text, size_t max_bytes);

}  // namespace quantloom::cli
