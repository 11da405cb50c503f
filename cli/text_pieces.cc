#include "cli/text_pieces.h"

#include "absl/strings/ascii.h"

namespace quantloom::cli {
namespace {

bool CanCutBefore(std::string_view text, size_t at) {
  return text[at - 1] == '\n' && absl::ascii_isalnum(static_cast<unsigned char>(text[at]));
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
