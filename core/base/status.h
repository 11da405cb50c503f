// Error handling: errors are absl::Status values with context added on the way up.
//
//   QL_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
//   QL_RETURN_IF_ERROR(Check(file)) ;
//   return Annotate(status, absl::StrCat("tensor '", name, "'"));
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace quantloom {

// `status` with "context: " before its message; the code and payloads are kept. OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace quantloom

#define QL_RETURN_IF_ERROR(expr)                                              \
  do {                                                                        \
    if (::absl::Status ql_status = (expr); !ql_status.ok()) return ql_status; \
  } while (false)

#define QL_CONCAT_INNER(a, b) a##b
#define QL_CONCAT(a, b) QL_CONCAT_INNER(a, b)
// `lhs` may declare a variable and `result` is a name: neither can stand in parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define QL_ASSIGN_OR_RETURN_IMPL(result, lhs, expr)    \
  auto result = (expr);                                \
  if (!result.ok()) return std::move(result).status(); \
  lhs = std::move(result).value()
// NOLINTEND(bugprone-macro-parentheses)
#define QL_ASSIGN_OR_RETURN(lhs, expr) \
  QL_ASSIGN_OR_RETURN_IMPL(QL_CONCAT(ql_result_, __LINE__), lhs, expr)
