// What is on disk: the packed directories under the model root.
//
// A model is published by renaming a complete directory to its name. Names that begin with a dot
// are none of a model's; the quantizer's staging directories have such names.
//
// Thread-safety: all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/format/model_config.h"
#include "quantloom/v1/model.pb.h"
#include "services/common/confined_root.h"

namespace quantloom {

class ModelRoot {
 public:
  explicit ModelRoot(ConfinedRoot root) : root_(std::move(root)) {}

  // The directory of the model. INVALID_ARGUMENT for a name that is none, NOT_FOUND for one that no
  // directory with a manifest has, PERMISSION_DENIED for a link that leads outside; all name
  // `field`.
  absl::StatusOr<std::filesystem::path> Directory(absl::string_view name,
                                                  absl::string_view field) const;

  // Names of all directories with a manifest, in order.
  absl::StatusOr<std::vector<std::string>> Names() const;

  // What a directory's files say.
  struct Description {
    std::string stamp;     // of the manifest
    absl::Status problem;  // why it cannot be loaded, as far as is known before
    v1::Model message;     // without state
    ModelConfig config;
    uint64_t weight_bytes = 0;  // in memory
  };
  // Reads them, unless they are known to be fine and the manifest's stamp is the same. Directory's
  // errors, for the field `name`.
  absl::StatusOr<std::shared_ptr<const Description>> Describe(const std::string& name);

  // Which file the manifest is, its size and time: another one once a directory has been replaced.
  // Empty when there is none.
  std::string Stamp(const std::string& name) const;
  // The same of every file in the directory: what changes while one is being written.
  std::string Fingerprint(const std::string& name) const;

 private:
  const ConfinedRoot root_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Description>> descriptions_;
};

}  // namespace quantloom
