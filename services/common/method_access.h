// Who may call which method: one table for all services.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantloom {

// What a token may be used for. A token has one or several; none includes another.
enum class Role { kQuantize, kGenerate, kAdmin };

absl::string_view RoleName(Role role);  // "quantize", "generate", "admin"
std::optional<Role> RoleFromName(absl::string_view name);

struct MethodAccess {
  enum class Kind {
    kOpen,      // without a token
    kAnyToken,  // with any valid one
    kRole,      // with one of `role`
  };
  absl::string_view method;  // "package.Service/Method", or "package.Service/*" for all the others
  Kind kind;
  Role role = Role::kAdmin;
};

absl::Span<const MethodAccess> MethodAccessTable();

// The row for a method as gRPC names it, "/package.Service/Method"; nullptr when there is none:
// then nobody may call it.
const MethodAccess* FindMethodAccess(absl::string_view method);

}  // namespace quantloom
