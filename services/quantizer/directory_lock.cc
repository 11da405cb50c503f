#include "services/quantizer/directory_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <system_error>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"

namespace quantloom {

absl::StatusOr<std::unique_ptr<DirectoryLock>> DirectoryLock::Acquire(
    const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);  // open says what went wrong
  const std::filesystem::path file = directory / "lock";
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus("cannot open", file);
  std::unique_ptr<DirectoryLock> lock(new DirectoryLock(fd));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", directory.string(), "' is in use by another process"));
  }
  return lock;
}

DirectoryLock::~DirectoryLock() { close(fd_); }

}  // namespace quantloom
