// The tokens that a service accepts: a file with one JSON object a line, as `quantloom token new`
// writes it. docs/security.md describes it for people.
//
//   {"name": "alice", "salt": "<32 hex>", "sha256": "<64 hex>", "roles": ["generate"],
//    "expires": "2027-01-31T00:00:00Z", "requests_per_second": 5, "burst": 10,
//    "concurrent_requests": 4}
//
// "expires" and the limits may be missing. Empty lines and lines that begin with # are skipped.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/common/client_limiter.h"
#include "services/common/method_access.h"

namespace quantloom {

struct TokenEntry {
  std::string name;
  std::string salt;    // hexadecimal
  std::string sha256;  // of salt and token, hexadecimal
  std::set<Role> roles;
  absl::Time expiry = absl::InfiniteFuture();
  // Absent: what all clients get.
  std::optional<double> requests_per_second;
  std::optional<double> burst;
  std::optional<int> concurrent_requests;

  // `defaults`, with what the entry says instead.
  ClientLimits Limits(const ClientLimits& defaults) const;
};

// Immutable.
class TokenSet {
 public:
  // INVALID_ARGUMENT for the first line that is wrong, with its number, and nothing of it that
  // could be a secret. Several entries may have one name: an old and a new token of one client.
  static absl::StatusOr<TokenSet> Parse(absl::string_view text);
  // The same, naming the file, and why it cannot be read.
  static absl::StatusOr<TokenSet> Read(const std::string& path);

  // The entry of a token, expired or not; nullptr when there is none.
  const TokenEntry* Find(absl::string_view token) const;
  size_t size() const { return size_; }

 private:
  std::unordered_map<std::string, std::vector<TokenEntry>> entries_;  // by name
  size_t size_ = 0;
};

}  // namespace quantloom
