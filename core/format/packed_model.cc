#include "core/format/packed_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/quoted.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/safetensors.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;

constexpr char kConfigFile[] = "config.json";
constexpr uint64_t kMaxManifestBytes = uint64_t{256} << 20;

// What a reader of a well-formed file would call INVALID_ARGUMENT or NOT_FOUND is, in a model that
// has a manifest, damage.
absl::Status AsDataLoss(const absl::Status& status) {
  if (absl::IsInvalidArgument(status) || absl::IsNotFound(status)) {
    return absl::DataLossError(status.message());
  }
  return status;
}

absl::Status CheckDigest(absl::Span<const uint8_t> bytes, absl::string_view sha256) {
  if (Sha256::Of(bytes) == sha256) return absl::OkStatus();
  return absl::DataLossError("the bytes do not match the manifest's SHA-256");
}

class MappedPackedModel final : public PackedModel {
 public:
  explicit MappedPackedModel(const fs::path& directory) { directory_ = directory; }

  absl::Status Initialize(Verify verify) {
    QL_RETURN_IF_ERROR(ReadManifest());
    for (const auto& [name, file] : manifest_.files) {
      QL_RETURN_IF_ERROR(
          Annotate(CheckFile(name, file), absl::StrCat("'", (directory_ / name).string(), "'")));
    }
    QL_RETURN_IF_ERROR(ReadConfig());
    QL_RETURN_IF_ERROR(CheckTensorList());
    absl::StatusOr<SafetensorsDirectory> shards = SafetensorsDirectory::Open(directory_);
    if (!shards.ok()) return AsDataLoss(shards.status());
    shards_ = std::make_unique<SafetensorsDirectory>(*std::move(shards));
    QL_RETURN_IF_ERROR(CheckPlanes());
    QL_RETURN_IF_ERROR(CheckTotals());
    return verify == Verify::kFull ? CheckPlaneDigests() : absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenMatrix(absl::string_view name) const override {
    QL_ASSIGN_OR_RETURN(const PackedTensorInfo* info, Require(name));
    if (info->recipe == kRawRecipe) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' is stored as it is"));
    }
    std::vector<PlaneView> planes;
    for (const PackedPlaneInfo& plane : info->planes) planes.push_back(View(*info, plane));
    absl::StatusOr<std::unique_ptr<PackedMatrix>> matrix =
        quantloom::OpenMatrix(info->recipe, info->shape[0], info->shape[1], planes);
    if (!matrix.ok()) return Annotate(AsDataLoss(matrix.status()), Where(*info));
    return matrix;
  }

  absl::StatusOr<PlaneView> OpenRaw(absl::string_view name) const override {
    QL_ASSIGN_OR_RETURN(const PackedTensorInfo* info, Require(name));
    if (info->recipe != kRawRecipe) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", name, "' is stored as ", info->recipe));
    }
    return View(*info, info->planes[0]);
  }

  const PackedTensorInfo* FindTensor(absl::string_view name) const override {
    const auto it = index_.find(name);
    return it == index_.end() ? nullptr : &manifest_.tensors[it->second];
  }

  void ReleasePages(absl::string_view name) const override {
    const PackedTensorInfo* info = FindTensor(name);
    if (info == nullptr) return;
    for (const PackedPlaneInfo& plane : info->planes) {
      const std::string stored_name = StoredPlaneName(info->name, plane.name);
      shards_->FindShard(stored_name)->file()->Release(shards_->Find(stored_name)->bytes);
    }
  }

 private:
  std::string Where(const PackedTensorInfo& info) const {
    return absl::StrCat("'", directory_.string(), "': tensor '", info.name, "'");
  }

  absl::Status ReadManifest() {
    const fs::path path = directory_ / kManifestFile;
    std::error_code error;
    if (!fs::is_directory(directory_, error)) {
      return absl::NotFoundError(absl::StrCat("no directory '", directory_.string(), "'"));
    }
    absl::StatusOr<std::string> text = ReadFile(path, kMaxManifestBytes);
    if (absl::IsNotFound(text.status())) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", directory_.string(), "' is not a packed model: it has no ", kManifestFile));
    }
    QL_RETURN_IF_ERROR(text.status());
    absl::StatusOr<PackedManifest> manifest = ParseManifest(*text);
    if (!manifest.ok()) {
      return Annotate(manifest.status(), absl::StrCat("'", path.string(), "'"));
    }
    manifest_ = *std::move(manifest);
    for (size_t i = 0; i < manifest_.tensors.size(); ++i) index_[manifest_.tensors[i].name] = i;
    return absl::OkStatus();
  }

  absl::Status CheckFile(const std::string& name, const PackedFileInfo& expected) const {
    const absl::StatusOr<std::shared_ptr<const MappedFile>> file =
        MappedFile::Open(directory_ / name);
    if (!file.ok()) return AsDataLoss(file.status());
    const absl::Span<const uint8_t> bytes = (*file)->bytes();
    if (bytes.size() != expected.bytes) {
      return absl::DataLossError(
          absl::StrCat("has ", bytes.size(), " bytes; the manifest says ", expected.bytes));
    }
    return CheckDigest(bytes, expected.sha256);
  }

  absl::Status ReadConfig() {
    for (const char* name : {kConfigFile, kSafetensorsIndexFile}) {
      if (!manifest_.files.contains(name)) {
        return absl::DataLossError(absl::StrCat("'", (directory_ / kManifestFile).string(),
                                                "': field 'files' lacks '", name, "'"));
      }
    }
    const fs::path path = directory_ / kConfigFile;
    QL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    absl::StatusOr<ModelConfig> config = ModelConfig::FromHfJson(text);
    if (!config.ok()) return Annotate(config.status(), absl::StrCat("'", path.string(), "'"));
    config_ = *std::move(config);
    return absl::OkStatus();
  }

  // The manifest lists the model's tensors, in forward order, with their shapes; matrices alone are
  // encoded.
  absl::Status CheckTensorList() const {
    const std::vector<TensorSpec> specs = ModelTensors(config_);
    const std::string where = absl::StrCat("'", (directory_ / kManifestFile).string(), "'");
    for (size_t i = 0; i < std::max(specs.size(), manifest_.tensors.size()); ++i) {
      if (i >= specs.size() || i >= manifest_.tensors.size() ||
          specs[i].name != manifest_.tensors[i].name) {
        return absl::DataLossError(absl::StrCat(
            where, ": field 'tensors', entry ", i, " is ",
            i < manifest_.tensors.size() ? Quoted(manifest_.tensors[i].name) : "missing", "; ",
            config_.architecture, " has ", i < specs.size() ? specs[i].name : "no more"));
      }
      const PackedTensorInfo& info = manifest_.tensors[i];
      if (info.shape != specs[i].shape || (info.recipe != kRawRecipe && info.shape.size() != 2)) {
        return absl::DataLossError(absl::StrCat(where, ": tensor '", info.name,
                                                "': field 'shape' or 'recipe'"
                                                " contradicts config.json"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckPlanes() const {
    for (const PackedTensorInfo& info : manifest_.tensors) {
      for (const PackedPlaneInfo& plane : info.planes) {
        QL_RETURN_IF_ERROR(Annotate(CheckPlane(info, plane), Where(info)));
      }
    }
    return absl::OkStatus();
  }

  // The plane is stored with the manifest's type and shape, aligned, its padding behind it.
  absl::Status CheckPlane(const PackedTensorInfo& info, const PackedPlaneInfo& plane) const {
    const std::string name = StoredPlaneName(info.name, plane.name);
    const SafetensorsTensor* stored = shards_->Find(name);
    if (stored == nullptr) {
      return absl::DataLossError(absl::StrCat("plane ", Quoted(plane.name), " is in no shard"));
    }
    if (stored->dtype != plane.dtype || stored->shape != plane.shape) {
      return absl::DataLossError(
          absl::StrCat("plane ", Quoted(plane.name), ": dtype or shape contradicts the manifest"));
    }
    const MappedFile* file = shards_->FindShard(name)->file();
    if ((stored->bytes.data() - file->bytes().data()) % kPlaneAlignment != 0) {
      return absl::DataLossError(absl::StrCat("plane ", Quoted(plane.name), " is not aligned to ",
                                              kPlaneAlignment, " bytes"));
    }
    const uint64_t padding = PlanePadding(plane.bytes);
    if (padding == 0) return absl::OkStatus();
    const SafetensorsTensor* pad = shards_->Find(PaddingName(name));
    if (pad == nullptr || pad->bytes.size() != padding ||
        pad->bytes.begin() != stored->bytes.end()) {
      return absl::DataLossError(
          absl::StrCat("plane ", Quoted(plane.name), " is not followed by its padding"));
    }
    return absl::OkStatus();
  }

  // Sizes and averages in the manifest are those of the planes.
  absl::Status CheckTotals() const {
    uint64_t total = 0;
    for (const PackedTensorInfo& info : manifest_.tensors) {
      const uint64_t bytes = info.stored_bytes();
      total += bytes;
      const double bits = 8.0 * static_cast<double>(bytes) / static_cast<double>(info.weights());
      if (std::abs(bits - info.bits_per_weight) > 1e-9 * bits ||
          std::abs(bits - info.bits.total()) > 1e-5) {
        return absl::DataLossError(absl::StrCat(
            Where(info), ": field 'bits_per_weight' or 'bits' contradicts the planes' sizes"));
      }
    }
    if (total != manifest_.packed_bytes) {
      return absl::DataLossError(
          absl::StrCat("'", (directory_ / kManifestFile).string(),
                       "': field 'packed_bytes' contradicts the planes' sizes"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckPlaneDigests() const {
    for (const PackedTensorInfo& info : manifest_.tensors) {
      for (const PackedPlaneInfo& plane : info.planes) {
        const std::string name = StoredPlaneName(info.name, plane.name);
        QL_RETURN_IF_ERROR(Annotate(CheckDigest(shards_->Find(name)->bytes, plane.sha256),
                                    absl::StrCat(Where(info), ", plane ", Quoted(plane.name))));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<const PackedTensorInfo*> Require(absl::string_view name) const {
    const PackedTensorInfo* info = FindTensor(name);
    if (info == nullptr) return absl::NotFoundError(absl::StrCat("no tensor '", name, "'"));
    return info;
  }

  PlaneView View(const PackedTensorInfo& info, const PackedPlaneInfo& plane) const {
    const SafetensorsTensor* stored = shards_->Find(StoredPlaneName(info.name, plane.name));
    return {plane.name, plane.dtype, plane.shape, stored->bytes};
  }

  absl::flat_hash_map<std::string, size_t> index_;  // tensor name -> its place in the manifest
  std::unique_ptr<SafetensorsDirectory> shards_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const PackedModel>> PackedModel::Open(const fs::path& directory,
                                                                     Verify verify) {
  auto model = std::make_shared<MappedPackedModel>(directory);
  QL_RETURN_IF_ERROR(model->Initialize(verify));
  return model;
}

}  // namespace quantloom
