#include "services/common/token_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "access_token/access_token.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;
constexpr double kMaxRate = 1e6;
constexpr double kMaxConcurrent = 1 << 20;

constexpr std::array<absl::string_view, 8> kKeys = {"name",    "salt",
                                                    "sha256",  "roles",
                                                    "expires", "requests_per_second",
                                                    "burst",   "concurrent_requests"};

// A wrong key is refused: a misspelled "expires" must not make a token that is good for ever.
absl::Status CheckKeys(const nlohmann::json& line) {
  for (const auto& [key, value] : line.items()) {
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", key, "' is none of ", absl::StrJoin(kKeys, ", ")));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> HexField(const nlohmann::json& line, const char* key, size_t length) {
  QL_ASSIGN_OR_RETURN(std::string text, JsonField<std::string>(line, key));
  absl::AsciiStrToLower(&text);
  if (text.size() != length || !std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return absl::ascii_isxdigit(c);
      })) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": must be ", length, " hexadecimal characters"));
  }
  return text;
}

absl::StatusOr<std::set<Role>> ParseRoles(const nlohmann::json& line) {
  const absl::Status wrong =
      absl::InvalidArgumentError("roles: must be a list of quantize, generate and admin");
  const nlohmann::json* roles = FindJson(line, "roles");
  if (roles == nullptr || !roles->is_array() || roles->empty()) return wrong;
  std::set<Role> parsed;
  for (const nlohmann::json& role : *roles) {
    const auto* name = role.get_ptr<const std::string*>();
    const std::optional<Role> known =
        name == nullptr ? std::nullopt : RoleFromName(absl::string_view(*name));
    if (!known) return wrong;
    parsed.insert(*known);
  }
  return parsed;
}

absl::StatusOr<absl::Time> ParseExpiry(const nlohmann::json& line) {
  if (FindJson(line, "expires") == nullptr) return absl::InfiniteFuture();
  QL_ASSIGN_OR_RETURN(const std::string text, JsonField<std::string>(line, "expires"));
  absl::Time time;
  std::string problem;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &problem)) {
    return absl::InvalidArgumentError("expires: must be a time like 2027-01-31T00:00:00Z");
  }
  return time;
}

absl::StatusOr<std::optional<double>> ParseLimit(const nlohmann::json& line, const char* key,
                                                 double max) {
  if (FindJson(line, key) == nullptr) return std::nullopt;
  QL_ASSIGN_OR_RETURN(const double value, JsonField<double>(line, key));
  if (!(value >= 0 && value <= max)) {
    return absl::InvalidArgumentError(absl::StrCat(key, ": must be in 0 .. ", max));
  }
  return value;
}

absl::StatusOr<TokenEntry> ParseLine(absl::string_view text) {
  absl::StatusOr<nlohmann::json> line = ParseJsonObject(text);
  // The parser's message quotes the text.
  if (!line.ok()) return absl::InvalidArgumentError("is not a JSON object");
  QL_RETURN_IF_ERROR(CheckKeys(*line));
  TokenEntry entry;
  QL_ASSIGN_OR_RETURN(entry.name, JsonField<std::string>(*line, "name"));
  QL_RETURN_IF_ERROR(Annotate(CheckTokenName(entry.name), "name"));
  QL_ASSIGN_OR_RETURN(entry.salt, HexField(*line, "salt", kTokenSaltLength));
  QL_ASSIGN_OR_RETURN(entry.sha256, HexField(*line, "sha256", kTokenDigestLength));
  QL_ASSIGN_OR_RETURN(entry.roles, ParseRoles(*line));
  QL_ASSIGN_OR_RETURN(entry.expiry, ParseExpiry(*line));
  QL_ASSIGN_OR_RETURN(entry.requests_per_second,
                      ParseLimit(*line, "requests_per_second", kMaxRate));
  QL_ASSIGN_OR_RETURN(entry.burst, ParseLimit(*line, "burst", kMaxRate));
  QL_ASSIGN_OR_RETURN(const std::optional<double> concurrent,
                      ParseLimit(*line, "concurrent_requests", kMaxConcurrent));
  if (concurrent && *concurrent != std::floor(*concurrent)) {
    return absl::InvalidArgumentError("concurrent_requests: must be a whole number");
  }
  if (concurrent) entry.concurrent_requests = static_cast<int>(*concurrent);
  return entry;
}

}  // namespace

ClientLimits TokenEntry::Limits(const ClientLimits& defaults) const {
  ClientLimits limits = defaults;
  if (requests_per_second) {
    limits.requests_per_second = *requests_per_second;
    limits.burst = 0;  // the default one belongs to another rate
  }
  if (burst) limits.burst = *burst;
  if (concurrent_requests) limits.concurrent_requests = *concurrent_requests;
  return limits;
}

absl::StatusOr<TokenSet> TokenSet::Parse(absl::string_view text) {
  TokenSet tokens;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    absl::StatusOr<TokenEntry> entry = ParseLine(line);
    if (!entry.ok()) return Annotate(entry.status(), absl::StrCat("line ", number));
    const std::string name = entry->name;
    tokens.entries_[name].push_back(*std::move(entry));
    ++tokens.size_;
  }
  return tokens;
}

absl::StatusOr<TokenSet> TokenSet::Read(const std::string& path) {
  QL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  absl::StatusOr<TokenSet> tokens = Parse(text);
  if (!tokens.ok()) return Annotate(tokens.status(), absl::StrCat("'", path, "'"));
  return tokens;
}

const TokenEntry* TokenSet::Find(absl::string_view token) const {
  const std::optional<absl::string_view> name = NameInToken(token);
  if (!name) return nullptr;
  const auto named = entries_.find(std::string(*name));
  if (named == entries_.end()) return nullptr;
  for (const TokenEntry& entry : named->second) {
    if (SameDigest(TokenDigest(entry.salt, token), entry.sha256)) return &entry;
  }
  return nullptr;
}

}  // namespace quantloom
