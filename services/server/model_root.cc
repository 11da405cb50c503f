#include "services/server/model_root.h"

#include <sys/stat.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/packed_model.h"
#include "core/text/chat_template.h"
#include "services/common/rpc_status.h"
#include "services/server/model_message.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxTokenizerConfigBytes = 64 << 20;

// Empty for what is not a regular file.
std::string FileStamp(const fs::path& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return "";
  return absl::StrCat(info.st_dev, ":", info.st_ino, ":", info.st_size, ":", info.st_mtim.tv_sec,
                      ".", info.st_mtim.tv_nsec);
}

bool HasChatTemplate(const fs::path& directory) {
  const auto text = ReadFile(directory / "tokenizer_config.json", kMaxTokenizerConfigBytes);
  return text.ok() && ChatTemplate::FromTokenizerConfig(*text).ok();
}

}  // namespace

absl::StatusOr<fs::path> ModelRoot::Directory(absl::string_view name,
                                              absl::string_view field) const {
  if (const absl::Status status = CheckName(name); !status.ok()) return WithField(status, field);
  const absl::StatusOr<fs::path> directory = root_.Resolve(name);
  if (directory.ok() && !FileStamp(*directory / kManifestFile).empty()) return *directory;
  if (directory.ok() || absl::IsNotFound(directory.status())) {
    return WithField(absl::NotFoundError(absl::StrCat("no model '", name, "'")), field);
  }
  return WithField(directory.status(), field);
}

absl::StatusOr<std::vector<std::string>> ModelRoot::Names() const {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator entry(root_.path(), error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (Directory(name, "name").ok()) names.push_back(std::move(name));
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("model root '", root_.path().string(), "': ", error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::shared_ptr<const ModelRoot::Description>> ModelRoot::Describe(
    const std::string& name) {
  QL_ASSIGN_OR_RETURN(const fs::path directory, Directory(name, "name"));
  const std::string stamp = FileStamp(directory / kManifestFile);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = descriptions_.find(name);
    if (found != descriptions_.end() && found->second->stamp == stamp) return found->second;
  }
  auto description = std::make_shared<Description>();
  description->stamp = stamp;
  const auto packed = PackedModel::Open(directory, Verify::kHeader);
  const auto manifest = MappedFile::Open(directory / kManifestFile);
  if (packed.ok() && manifest.ok()) {
    description->config = (*packed)->config();
    description->message =
        DescribeModel(name, (*packed)->config(), (*packed)->manifest(), HasChatTemplate(directory));
    description->message.set_manifest_sha256(Sha256::Of((*manifest)->bytes()));
    description->weight_bytes = ResidentWeightBytes((*packed)->manifest());
  } else {
    description->problem = packed.ok() ? manifest.status() : packed.status();
    description->message.set_name(name);
    description->message.set_problem(std::string(description->problem.message()));
  }
  // What is wrong may be put right without a change of the manifest: a missing file, for one.
  if (!description->problem.ok()) return description;
  std::lock_guard<std::mutex> lock(mutex_);
  descriptions_[name] = description;
  return description;
}

std::string ModelRoot::Stamp(const std::string& name) const {
  const auto directory = Directory(name, "name");
  return directory.ok() ? FileStamp(*directory / kManifestFile) : "";
}

std::string ModelRoot::Fingerprint(const std::string& name) const {
  const auto directory = Directory(name, "name");
  if (!directory.ok()) return "";
  std::vector<std::string> files;
  std::error_code error;
  fs::directory_iterator entry(*directory, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    files.push_back(absl::StrCat(entry->path().filename().string(), "=", FileStamp(entry->path())));
  }
  std::sort(files.begin(), files.end());
  return absl::StrJoin(files, "/");
}

}  // namespace quantloom
