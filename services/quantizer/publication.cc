#include "services/quantizer/publication.h"

#include <fcntl.h>
#include <stdio.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/packed_model.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;

constexpr char kStagingPrefix[] = ".staging-";

// rename that never replaces. Some file systems do not know the flag; there the check before the
// rename leaves a moment in which another program could create the name.
int RenameNoReplace(const fs::path& from, const fs::path& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  std::error_code error;
  if (fs::exists(fs::symlink_status(to, error))) {
    errno = EEXIST;
    return -1;
  }
  return rename(from.c_str(), to.c_str());
}

}  // namespace

fs::path Publisher::StagingDirectory(const std::string& job) const {
  return root_ / absl::StrCat(kStagingPrefix, job);
}

fs::path Publisher::OutputDirectory(const std::string& output) const { return root_ / output; }

bool Publisher::OutputExists(const std::string& output) const {
  std::error_code error;
  return fs::exists(fs::symlink_status(OutputDirectory(output), error));
}

absl::StatusOr<std::string> Publisher::ManifestDigest(const fs::path& directory) const {
  QL_ASSIGN_OR_RETURN(const auto manifest, MappedFile::Open(directory / kManifestFile));
  return Sha256::Of(manifest->bytes());
}

absl::Status Publisher::Publish(const std::string& job, const std::string& output) const {
  const fs::path staging = StagingDirectory(job);
  QL_RETURN_IF_ERROR(SyncDirectory(staging));
  if (RenameNoReplace(staging, OutputDirectory(output)) != 0) {
    return ErrnoStatus("cannot publish", OutputDirectory(output));
  }
  return SyncDirectory(root_);
}

absl::Status Publisher::RemoveStaging(const std::string& job) const {
  std::error_code error;
  fs::remove_all(StagingDirectory(job), error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cannot remove '", StagingDirectory(job).string(), "': ", error.message()));
}

std::vector<std::string> Publisher::StagedJobs() const {
  std::vector<std::string> jobs;
  std::error_code error;
  for (fs::directory_iterator it(root_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (absl::StartsWith(name, kStagingPrefix)) {
      jobs.push_back(name.substr(sizeof(kStagingPrefix) - 1));
    }
  }
  return jobs;
}

}  // namespace quantloom
