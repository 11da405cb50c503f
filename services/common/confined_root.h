// Paths in requests, confined to a configured directory.
#pragma once

#include <filesystem>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom {

// Longest name of a model, request or job, in characters.
inline constexpr size_t kMaxNameLength = 128;

// Whether `id` is 1 .. kMaxNameLength characters of [A-Za-z0-9._-]; INVALID_ARGUMENT otherwise.
absl::Status CheckIdentifier(absl::string_view id);

// Whether `name` is an identifier that does not start with a dot; INVALID_ARGUMENT otherwise. Such
// a name is one directory entry, never hidden, "." or "..".
absl::Status CheckName(absl::string_view name);

// A directory that requests may name files in. Immutable.
class ConfinedRoot {
 public:
  // `directory` must exist: NOT_FOUND, PERMISSION_DENIED, or INVALID_ARGUMENT for what is none.
  static absl::StatusOr<ConfinedRoot> Open(const std::filesystem::path& directory);

  // The canonical path of `path`, relative to the root or absolute inside it, with every symbolic
  // link resolved. PERMISSION_DENIED when it leads outside (known for what is spelled outside
  // without a look at the file system, so that requests cannot probe it) or cannot be read;
  // NOT_FOUND when it does not exist; INVALID_ARGUMENT for an empty path or a NUL byte in it.
  // Messages hold the path as given.
  absl::StatusOr<std::filesystem::path> Resolve(absl::string_view path) const;

  // Canonical, absolute.
  const std::filesystem::path& path() const { return path_; }

 private:
  ConfinedRoot(std::filesystem::path given, std::filesystem::path canonical)
      : given_(std::move(given)), path_(std::move(canonical)) {}

  std::filesystem::path given_;  // absolute, as configured: absolute paths may be spelled with it
  std::filesystem::path path_;
};

}  // namespace quantloom
