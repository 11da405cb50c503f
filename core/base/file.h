// Files: the one way to read, map, and durably write them. Errors name the path.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quantloom {

// A read-only memory mapping of a whole file. Immutable; safe to share among threads. The mapping
// lives as long as the object: hand out shared_ptr where views outlive the scope.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED, or INVALID_ARGUMENT (not a regular file).
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::Span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Drops the pages of `range` (a subspan of bytes()) from this process; a later read faults them
  // in again.
  void Release(absl::Span<const uint8_t> range) const;

 private:
  MappedFile(std::filesystem::path path, const uint8_t* data, size_t size);
  std::filesystem::path path_;
  const uint8_t* data_;
  size_t size_;
};

// The whole file as a string; RESOURCE_EXHAUSTED when it is larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path,
                                     uint64_t max_bytes = uint64_t{1} << 30);

// Writes `contents` to `path` through a temporary name, fsyncs file and directory, then renames:
// readers see the old file or the new one, never a part. A full disk is RESOURCE_EXHAUSTED.
absl::Status WriteFileAtomically(const std::filesystem::path& path, absl::string_view contents);

// fsync of a directory, so that renames and creations in it survive a power loss.
absl::Status SyncDirectory(const std::filesystem::path& path);

// Append-only file for large outputs: buffered writes, then Close() which fsyncs.
class FileWriter {
 public:
  // Creates or truncates.
  static absl::StatusOr<std::unique_ptr<FileWriter>> Create(const std::filesystem::path& path);
  ~FileWriter();  // Closes without fsync when Close() was not called.
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  absl::Status Append(absl::Span<const uint8_t> bytes);
  uint64_t size() const { return size_; }  // bytes appended so far
  absl::Status Close();

 private:
  FileWriter(std::filesystem::path path, int fd);
  std::filesystem::path path_;
  int fd_;
  uint64_t size_ = 0;
};

// absl::Status for the current errno: ENOENT -> NOT_FOUND, EACCES -> PERMISSION_DENIED, ENOSPC and
// EDQUOT -> RESOURCE_EXHAUSTED, EEXIST -> ALREADY_EXISTS, others INTERNAL. The message holds
// `action`, the path and the reason.
absl::Status ErrnoStatus(absl::string_view action, const std::filesystem::path& path);

}  // namespace quantloom
