#include "access_token/access_token.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantloom {
namespace {

constexpr absl::string_view kPrefix = "ql_";
constexpr size_t kSecretBytes = 32;
constexpr size_t kSecretLength = 43;  // base64url of it, without padding
constexpr size_t kSaltBytes = kTokenSaltLength / 2;

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
}

absl::StatusOr<std::string> RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) != 1) {
    return absl::InternalError("the system's random number generator failed");
  }
  return bytes;
}

}  // namespace

absl::Status CheckTokenName(absl::string_view name) {
  if (name.empty() || name.size() > kMaxTokenNameLength ||
      !std::all_of(name.begin(), name.end(), IsNameCharacter)) {
    return absl::InvalidArgumentError(absl::StrCat("a name has 1 to ", kMaxTokenNameLength,
                                                   " letters, digits, '.', '_' and '-'"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> NewToken(absl::string_view name) {
  if (absl::Status status = CheckTokenName(name); !status.ok()) return status;
  const absl::StatusOr<std::string> secret = RandomBytes(kSecretBytes);
  if (!secret.ok()) return secret.status();
  return absl::StrCat(kPrefix, name, ".", absl::WebSafeBase64Escape(*secret));
}

absl::StatusOr<std::string> NewTokenSalt() {
  const absl::StatusOr<std::string> salt = RandomBytes(kSaltBytes);
  if (!salt.ok()) return salt.status();
  return absl::BytesToHexString(*salt);
}

std::optional<absl::string_view> NameInToken(absl::string_view token) {
  // The secret is found by its length, since a name may have dots.
  if (!absl::StartsWith(token, kPrefix)) return std::nullopt;
  token.remove_prefix(kPrefix.size());
  if (token.size() < kSecretLength + 2) return std::nullopt;
  const absl::string_view name = token.substr(0, token.size() - kSecretLength - 1);
  if (token[name.size()] != '.' || !CheckTokenName(name).ok()) return std::nullopt;
  return name;
}

std::string TokenDigest(absl::string_view salt, absl::string_view token) {
  const std::string salted = absl::StrCat(salt, token);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(salted.data()), salted.size(), digest.data());
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

bool SameDigest(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace quantloom
