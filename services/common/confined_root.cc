#include "services/common/confined_root.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;

bool IsInside(const fs::path& root, const fs::path& path) {
  const auto [in_root, in_path] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return in_root == root.end();
}

absl::StatusOr<fs::path> Canonical(const fs::path& path, absl::string_view as_given) {
  char resolved[PATH_MAX];
  if (realpath(path.c_str(), resolved) == nullptr) {
    if (errno == ENAMETOOLONG || errno == ELOOP) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", as_given, "' is too long or has a cycle of symbolic links"));
    }
    return ErrnoStatus("cannot resolve", fs::path(std::string(as_given)));
  }
  return fs::path(resolved);
}

}  // namespace

absl::Status CheckIdentifier(absl::string_view id) {
  const auto allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  if (id.empty()) return absl::InvalidArgumentError("must not be empty");
  if (id.size() > kMaxNameLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", id.size(), " characters; at most ", kMaxNameLength, " are allowed"));
  }
  if (!std::all_of(id.begin(), id.end(), allowed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", id, "' has other characters than A-Z, a-z, 0-9, '.', '_' and '-'"));
  }
  return absl::OkStatus();
}

absl::Status CheckName(absl::string_view name) {
  QL_RETURN_IF_ERROR(CheckIdentifier(name));
  if (name[0] != '.') return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' must not start with a dot"));
}

absl::StatusOr<ConfinedRoot> ConfinedRoot::Open(const fs::path& directory) {
  std::error_code error;
  fs::path given = fs::absolute(directory, error).lexically_normal();
  if (!given.has_filename()) given = given.parent_path();  // a trailing slash
  absl::StatusOr<fs::path> canonical = Canonical(given, directory.string());
  if (!canonical.ok()) return canonical.status();
  if (!fs::is_directory(*canonical, error)) {
    return absl::InvalidArgumentError(absl::StrCat("'", directory.string(), "' is no directory"));
  }
  return ConfinedRoot(std::move(given), *std::move(canonical));
}

absl::StatusOr<fs::path> ConfinedRoot::Resolve(absl::string_view path) const {
  if (path.empty()) return absl::InvalidArgumentError("must not be empty");
  if (path.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("has a NUL byte");
  }
  const absl::Status outside =
      absl::PermissionDeniedError(absl::StrCat("'", path, "' leads outside the configured root"));
  const fs::path requested{std::string(path)};
  const fs::path spelled = (requested.is_absolute() ? requested : path_ / requested);
  const fs::path normal = spelled.lexically_normal();
  if (!IsInside(path_, normal) && !IsInside(given_, normal)) return outside;

  absl::StatusOr<fs::path> canonical = Canonical(spelled, path);
  if (!canonical.ok()) return canonical.status();
  if (!IsInside(path_, *canonical)) return outside;

  const int fd = open(canonical->c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus("cannot read", requested);
  close(fd);
  return *std::move(canonical);
}

}  // namespace quantloom
