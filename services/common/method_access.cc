#include "services/common/method_access.h"

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace quantloom {
namespace {

using Kind = MethodAccess::Kind;

constexpr MethodAccess kTable[] = {
    {"grpc.health.v1.Health/*", Kind::kOpen},
    {"grpc.reflection.v1alpha.ServerReflection/*", Kind::kAnyToken},
    {"quantloom.v1.GenerationService/Detokenize", Kind::kRole, Role::kGenerate},
    {"quantloom.v1.GenerationService/Generate", Kind::kRole, Role::kGenerate},
    {"quantloom.v1.GenerationService/Score", Kind::kRole, Role::kGenerate},
    {"quantloom.v1.GenerationService/Tokenize", Kind::kRole, Role::kGenerate},
    {"quantloom.v1.ModelService/GetModel", Kind::kAnyToken},
    {"quantloom.v1.ModelService/GetRunningBatch", Kind::kRole, Role::kAdmin},
    {"quantloom.v1.ModelService/GetServerInfo", Kind::kAnyToken},
    {"quantloom.v1.ModelService/ListModels", Kind::kAnyToken},
    {"quantloom.v1.ModelService/LoadModel", Kind::kRole, Role::kAdmin},
    {"quantloom.v1.ModelService/UnloadModel", Kind::kRole, Role::kAdmin},
    {"quantloom.v1.QuantizationService/CancelJob", Kind::kRole, Role::kQuantize},
    {"quantloom.v1.QuantizationService/Evaluate", Kind::kRole, Role::kQuantize},
    {"quantloom.v1.QuantizationService/GetJob", Kind::kRole, Role::kQuantize},
    {"quantloom.v1.QuantizationService/ListJobs", Kind::kRole, Role::kQuantize},
    {"quantloom.v1.QuantizationService/Quantize", Kind::kRole, Role::kQuantize},
    {"quantloom.v1.QuantizationService/WatchJob", Kind::kRole, Role::kQuantize},
};

struct NamedRole {
  Role role;
  absl::string_view name;
};
constexpr NamedRole kRoles[] = {
    {Role::kQuantize, "quantize"}, {Role::kGenerate, "generate"}, {Role::kAdmin, "admin"}};

}  // namespace

absl::string_view RoleName(Role role) {
  for (const NamedRole& named : kRoles) {
    if (named.role == role) return named.name;
  }
  return "";
}

std::optional<Role> RoleFromName(absl::string_view name) {
  for (const NamedRole& named : kRoles) {
    if (named.name == name) return named.role;
  }
  return std::nullopt;
}

absl::Span<const MethodAccess> MethodAccessTable() { return kTable; }

const MethodAccess* FindMethodAccess(absl::string_view method) {
  method = absl::StripPrefix(method, "/");
  for (const MethodAccess& row : kTable) {
    if (row.method == method) return &row;
    if (absl::EndsWith(row.method, "/*") &&
        absl::StartsWith(method, absl::StripSuffix(row.method, "*"))) {
      return &row;
    }
  }
  return nullptr;
}

}  // namespace quantloom
