// One process per directory.
#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"

namespace quantloom {

// Holds a directory for this process until it is destroyed or the process ends, however it ends.
class DirectoryLock {
 public:
  // Creates the directory if it is missing. FAILED_PRECONDITION when another process holds it.
  static absl::StatusOr<std::unique_ptr<DirectoryLock>> Acquire(
      const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace quantloom
