// Text from untrusted files inside error messages.
#pragma once

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantloom {

// In single quotes, what is not printable ASCII escaped, cut after 100 bytes.
inline std::string Quoted(absl::string_view text) {
  constexpr size_t kMaxBytes = 100;
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kMaxBytes)),
                      text.size() > kMaxBytes ? "...'" : "'");
}

}  // namespace quantloom
