#include "services/common/access_control.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

// Longest part of a certificate's name that tells clients apart: the scheduler takes 256 bytes.
constexpr size_t kMaxNameBytes = 240;
// Of an IPv6 address, what a network has rather than a machine in it.
constexpr size_t kNetworkBytes = 8;

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

// The token in "Bearer <token>", whose scheme has no case (RFC 7235); empty when there is none.
absl::string_view BearerToken(absl::string_view header) {
  constexpr absl::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(header, kScheme)) return "";
  return absl::StripAsciiWhitespace(header.substr(kScheme.size()));
}

absl::string_view FirstProperty(const grpc::AuthContext& context, const char* name) {
  const std::vector<grpc::string_ref> values = context.FindPropertyValues(name);
  return values.empty() ? absl::string_view() : View(values.front());
}

// Who a caller is without a token: what its certificate says, else where it comes from. A
// certificate is there only when it has been verified.
Caller CallerWithoutToken(const grpc::ServerContextBase& context) {
  const std::shared_ptr<const grpc::AuthContext> connection = context.auth_context();
  if (connection != nullptr && connection->IsPeerAuthenticated()) {
    absl::string_view name = FirstProperty(*connection, "x509_common_name");
    if (name.empty()) name = FirstProperty(*connection, "x509_subject_alternative_name");
    return {absl::StrCat("certificate:", name.substr(0, kMaxNameBytes)), true};
  }
  return {absl::StrCat("address:", ClientAddress(context.peer()).substr(0, kMaxNameBytes)), false};
}

const char* LimitName(ClientLimiter::Refusal refusal) {
  switch (refusal) {
    case ClientLimiter::Refusal::kRate:
      return "rate";
    case ClientLimiter::Refusal::kConcurrency:
      return "concurrency";
    default:
      return "clients";
  }
}

}  // namespace

void AccessOptions::AddTo(Configuration& configuration) {
  configuration.Add("token-file", token_file,
                    "File of the tokens that callers must show one of; \"\": none is needed");
  configuration
      .Add("client-requests-per-second", limits.requests_per_second,
           "Calls that one client may make a second, on average; 0: any number")
      ->check(CLI::Range(0.0, 1e6));
  configuration
      .Add("client-burst", limits.burst,
           "Calls of one client that may come at once within that; 0: a second's, at least one")
      ->check(CLI::Range(0.0, 1e6));
  configuration
      .Add("client-concurrent-requests", limits.concurrent_requests,
           "Calls of one client, streams included, that may run at the same time; 0: any number")
      ->check(CLI::Range(0, 1 << 20));
}

std::string ClientAddress(absl::string_view peer) {
  // "ipv4:10.0.0.7:40312", "ipv6:%5B::1%5D:40312", "unix:/path"
  if (!absl::StartsWith(peer, "ipv")) return std::string(peer);
  peer = peer.substr(0, peer.rfind(':'));
  absl::string_view address = peer;
  if (!absl::ConsumePrefix(&address, "ipv6:%5B") || !absl::ConsumeSuffix(&address, "%5D")) {
    return std::string(peer);
  }
  const std::string text(address.substr(0, address.find('%')));  // less the zone of a local one
  in6_addr bits{};
  if (inet_pton(AF_INET6, text.c_str(), &bits) != 1) return std::string(peer);
  std::fill(std::begin(bits.s6_addr) + kNetworkBytes, std::end(bits.s6_addr), 0);
  char network[INET6_ADDRSTRLEN];
  inet_ntop(AF_INET6, &bits, network, sizeof(network));
  return absl::StrCat("ipv6:", network, "/64");
}

AccessControl::AccessControl(const AccessOptions& options, prometheus::Registry& registry)
    : token_file_(options.token_file),
      authentication_failures_(
          prometheus::BuildCounter()
              .Name("quantloom_authentication_failures_total")
              .Help("Calls refused for their token: missing, malformed, unknown or expired")
              .Register(registry)),
      authorization_failures_(prometheus::BuildCounter()
                                  .Name("quantloom_authorization_failures_total")
                                  .Help("Calls refused for a role that their token lacks")
                                  .Register(registry)),
      limited_requests_(prometheus::BuildCounter()
                            .Name("quantloom_limited_requests_total")
                            .Help("Calls refused for a limit of their client: rate, concurrency, "
                                  "or clients when too many are active to count more")
                            .Register(registry)),
      limits_(options.limits) {
  // So that rates of failures start from zero, not from nothing.
  for (const char* reason : {"missing", "malformed", "unknown", "expired"}) {
    authentication_failures_.Add({{"reason", reason}});
  }
  for (const char* limit : {"rate", "concurrency", "clients"}) {
    limited_requests_.Add({{"limit", limit}});
  }
}

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::Create(
    const AccessOptions& options, prometheus::Registry& registry) {
  std::unique_ptr<AccessControl> control(new AccessControl(options, registry));
  QL_RETURN_IF_ERROR(control->ReloadTokens());
  return control;
}

absl::Status AccessControl::ReloadTokens() {
  if (token_file_.empty()) return absl::OkStatus();
  absl::StatusOr<TokenSet> tokens = TokenSet::Read(token_file_);
  if (!tokens.ok()) return Annotate(tokens.status(), "token-file");
  auto shared = std::make_shared<const TokenSet>(*std::move(tokens));
  const std::lock_guard lock(mutex_);
  tokens_ = std::move(shared);
  return absl::OkStatus();
}

void AccessControl::SetLimits(const ClientLimits& limits) {
  const std::lock_guard lock(mutex_);
  limits_ = limits;
}

absl::Status AccessControl::Unauthenticated(const char* reason, absl::string_view message) {
  authentication_failures_.Add({{"reason", reason}}).Increment();
  return absl::UnauthenticatedError(message);
}

absl::StatusOr<Caller> AccessControl::Authenticate(const MethodAccess& access,
                                                   const grpc::ServerContextBase& context,
                                                   absl::Time now, ClientLimits& limits) {
  std::shared_ptr<const TokenSet> tokens;
  {
    const std::lock_guard lock(mutex_);
    tokens = tokens_;
    limits = limits_;
  }
  if (tokens == nullptr) return CallerWithoutToken(context);
  const auto& metadata = context.client_metadata();
  const auto header = metadata.find("authorization");
  if (header == metadata.end()) {
    return Unauthenticated("missing", "this service needs a token: authorization: Bearer <token>");
  }
  const absl::string_view text = BearerToken(View(header->second));
  if (text.empty() || metadata.count("authorization") > 1) {
    return Unauthenticated("malformed", "authorization must be one 'Bearer <token>'");
  }
  const TokenEntry* token = tokens->Find(text);
  if (token == nullptr) return Unauthenticated("unknown", "the token is not known here");
  if (token->expiry <= now) {
    return Unauthenticated("expired",
                           absl::StrCat("the token '", token->name, "' expired at ",
                                        absl::FormatTime(token->expiry, absl::UTCTimeZone())));
  }
  if (access.kind == MethodAccess::Kind::kRole && token->roles.count(access.role) == 0) {
    const absl::string_view role = RoleName(access.role);
    authorization_failures_.Add({{"role", std::string(role)}}).Increment();
    return absl::PermissionDeniedError(
        absl::StrCat("the token '", token->name, "' lacks the role '", role, "'"));
  }
  limits = token->Limits(limits);
  return Caller{absl::StrCat("token:", token->name), true};
}

AccessControl::Admission AccessControl::Admit(absl::string_view method,
                                              const grpc::ServerContextBase& context,
                                              absl::Time now) {
  const MethodAccess* access = FindMethodAccess(method);
  if (access == nullptr) {
    return {absl::UnimplementedError("there is no such method"), {}};
  }
  if (access->kind == MethodAccess::Kind::kOpen) return {CallerWithoutToken(context), {}};
  ClientLimits limits;
  absl::StatusOr<Caller> caller = Authenticate(*access, context, now, limits);
  if (!caller.ok()) return {caller.status(), {}};
  ClientLimiter::Refusal refusal;
  absl::StatusOr<ClientLimiter::Permit> permit =
      limiter_.Acquire(caller->client, limits, now, refusal);
  if (!permit.ok()) {
    limited_requests_.Add({{"limit", LimitName(refusal)}}).Increment();
    return {permit.status(), {}};
  }
  return {std::move(caller), *std::move(permit)};
}

}  // namespace quantloom
