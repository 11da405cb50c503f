// Bearer tokens: "ql_<name>.<secret>". The secret is 256 random bits in base64url (43 characters);
// the name says whose token it is, and is no secret.
//
// A token file holds the SHA-256 of salt and token instead of the token. One fast hash is enough,
// since a secret of 256 random bits cannot be guessed; the salt keeps equal tokens from showing.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom {

// Longest name, in characters.
inline constexpr size_t kMaxTokenNameLength = 128;
// Hexadecimal characters of a salt and of a digest.
inline constexpr size_t kTokenSaltLength = 32;
inline constexpr size_t kTokenDigestLength = 64;

// Whether `name` is 1 .. kMaxTokenNameLength characters of [A-Za-z0-9._-]; INVALID_ARGUMENT
// otherwise.
absl::Status CheckTokenName(absl::string_view name);

// A new token, and a new salt in lower-case hexadecimal. INVALID_ARGUMENT for the name, INTERNAL
// when the system has no random bits.
absl::StatusOr<std::string> NewToken(absl::string_view name);
absl::StatusOr<std::string> NewTokenSalt();

// The name in a token; nullopt for text that is no token.
std::optional<absl::string_view> NameInToken(absl::string_view token);

// SHA-256 of `salt` (its hexadecimal characters) followed by `token`, in lower-case hexadecimal.
std::string TokenDigest(absl::string_view salt, absl::string_view token);

// Whether two digests are equal, in a time that does not tell where they differ.
bool SameDigest(absl::string_view a, absl::string_view b);

}  // namespace quantloom
