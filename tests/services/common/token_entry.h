// Lines of token files, for tests.
#pragma once

#include <string>
#include <vector>

namespace quantloom::testing {

// The line for a token that NewToken made; `more`: further members, such as "\"burst\":3".
std::string TokenLine(const std::string& token, const std::vector<std::string>& roles,
                      const std::string& more = "");

}  // namespace quantloom::testing
