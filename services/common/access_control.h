// Whether a call may be made, by whom, and how much: tokens, roles per method, limits per client.
#pragma once

#include <grpcpp/server_context.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/registry.h>

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/common/client_limiter.h"
#include "services/common/configuration.h"
#include "services/common/token_file.h"

namespace quantloom {

struct AccessOptions {
  std::string token_file;  // empty: calls need no token
  ClientLimits limits;     // of clients whose token says nothing else

  void AddTo(Configuration& configuration);
};

// Who makes a call. A client is known by the first of these that it has: "token:<name>",
// "certificate:<common name, else first alternative name>", "address:<ClientAddress>".
struct Caller {
  std::string client;
  bool authenticated = false;  // by token or certificate: the client cannot choose another name
};

// The part of a peer, as gRPC spells it ("ipv4:10.0.0.7:40312"), that is one client: the address
// without the port, and of an IPv6 address the first 64 bits ("ipv6:2001:db8::/64"), since a
// machine may use every address behind them.
std::string ClientAddress(absl::string_view peer);

// Thread-safe.
class AccessControl {
 public:
  // INVALID_ARGUMENT and what reading a file may return, naming the setting.
  static absl::StatusOr<std::unique_ptr<AccessControl>> Create(const AccessOptions& options,
                                                               prometheus::Registry& registry);

  struct Admission {
    absl::StatusOr<Caller> caller;
    ClientLimiter::Permit permit;  // to be kept as long as the call runs
  };
  // Decides on a call of `method` ("/package.Service/Method"). UNIMPLEMENTED for one that is not in
  // the table of methods (method_access.h), UNAUTHENTICATED without a token that
  // is valid at `now`, PERMISSION_DENIED naming the role that it lacks, RESOURCE_EXHAUSTED with a
  // retry delay beyond the limits.
  Admission Admit(absl::string_view method, const grpc::ServerContextBase& context, absl::Time now);

  // Reads the token file again; on an error what was read before stays in effect.
  absl::Status ReloadTokens();
  void SetLimits(const ClientLimits& limits);

 private:
  AccessControl(const AccessOptions& options, prometheus::Registry& registry);
  absl::StatusOr<Caller> Authenticate(const MethodAccess& access,
                                      const grpc::ServerContextBase& context, absl::Time now,
                                      ClientLimits& limits);
  absl::Status Unauthenticated(const char* reason, absl::string_view message);

  const std::string token_file_;
  prometheus::Family<prometheus::Counter>& authentication_failures_;
  prometheus::Family<prometheus::Counter>& authorization_failures_;
  prometheus::Family<prometheus::Counter>& limited_requests_;

  std::mutex mutex_;
  std::shared_ptr<const TokenSet> tokens_;  // null: calls need no token
  ClientLimits limits_;
  ClientLimiter limiter_;
};

}  // namespace quantloom
