#include "cli/text_pieces.h"

#include "absl/strings/ascii.h"

namespace quantloom::cli {
namespace {

// The pre-tokenizers of byte-level BPE take a run of whitespace before a word apart: its last
// character stands alone, or with the word if it is a space, and what is left before it is one
// piece. At a text's end the whole run is one piece. The two agree about a single newline between
// characters that are no whitespace, and about a run that ends in a newline and has one space after
// it. (But not before a digit: some split digits off first, and then the run ends there.)
bool CanCutBefore(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) -> unsigned char { return i < text.size() ? text[i] : ' '; };
  if (byte(at - 1) != '\n') return false;
  if (byte(at) == ' ')
    return absl::ascii_isalpha(byte(at + 1)) || absl::ascii_ispunct(byte(at + 1));
  return absl::ascii_isalnum(byte(at)) && at >= 2 && absl::ascii_isgraph(byte(at - 2));
}

}  // namespace

std::string_view FirstPiece(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  for (size_t at = max_bytes; at > 0; --at) {
    if (CanCutBefore(text, at)) return text.substr(0, at);
  }
  for (size_t at = max_bytes + 1; at < text.size(); ++at) {
    if (CanCutBefore(text, at)) return text.substr(0, at);
  }
  return text;
}

}  // namespace quantloom::cli
