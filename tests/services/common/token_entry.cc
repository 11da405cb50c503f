#include "tests/services/common/token_entry.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "access_token/access_token.h"

namespace quantloom::testing {

std::string TokenLine(const std::string& token, const std::vector<std::string>& roles,
                      const std::string& more) {
  const std::string salt = NewTokenSalt().value_or("");
  const auto quote = [](std::string* out, const std::string& role) {
    absl::StrAppend(out, "\"", role, "\"");
  };
  return absl::StrCat("{\"name\":\"", NameInToken(token).value_or(""), "\",\"salt\":\"", salt,
                      "\",\"sha256\":\"", TokenDigest(salt, token), "\",\"roles\":[",
                      absl::StrJoin(roles, ",", quote), "]", more.empty() ? "" : ",", more, "}\n");
}

}  // namespace quantloom::testing
