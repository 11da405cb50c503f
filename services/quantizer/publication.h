// From a job's staging directory to a published model: one rename, at most once.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantloom {

// Staging directories and published models under one model root. Thread-safe.
class Publisher {
 public:
  explicit Publisher(std::filesystem::path model_root) : root_(std::move(model_root)) {}

  // <root>/.staging-<job>: on the file system of the outputs, and hidden from listings of models.
  std::filesystem::path StagingDirectory(const std::string& job) const;
  std::filesystem::path OutputDirectory(const std::string& output) const;

  // Whether anything of that name exists.
  bool OutputExists(const std::string& output) const;

  // SHA-256 of a packed directory's manifest, which holds the digests of everything else there.
  // NOT_FOUND when there is none.
  absl::StatusOr<std::string> ManifestDigest(const std::filesystem::path& directory) const;

  // Renames the job's staging directory to the output and makes that durable. ALREADY_EXISTS when
  // the output exists; it is then untouched.
  absl::Status Publish(const std::string& job, const std::string& output) const;

  // Removes the job's staging directory and everything in it, if there is one.
  absl::Status RemoveStaging(const std::string& job) const;

  // Names of the jobs that have a staging directory.
  std::vector<std::string> StagedJobs() const;

 private:
  const std::filesystem::path root_;
};

}  // namespace quantloom
