#include <cerrno>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/file.h"
#include "core/base/float16.h"
#include "core/base/json.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/packed_model.h"
#include "core/format/safetensors.h"
#include "core/format/safetensors_writer.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;

constexpr char kConfigFile[] = "config.json";
// Per-tensor files while a job runs: <tensor>.safetensors, its entry of the manifest in the
// header's metadata.
constexpr char kStagedDirectory[] = ".tensors";
constexpr absl::string_view kStagedSuffix = ".safetensors";
constexpr char kRecordKey[] = "record";
constexpr char kRecordDigestKey[] = "record_sha256";
constexpr uint8_t kZeros[kPlaneAlignment] = {};

absl::Span<const uint8_t> AsBytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

struct StagedTensor {
  PackedTensorInfo info;
  SafetensorsFile file;
};

absl::Status RemoveAll(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cannot remove '", path.string(), "': ", error.message()));
}

// A staged file whose record and planes are what they were when it was written.
absl::StatusOr<StagedTensor> OpenStaged(const fs::path& path) {
  QL_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  const auto record = file.metadata().find(kRecordKey);
  const auto digest = file.metadata().find(kRecordDigestKey);
  if (record == file.metadata().end() || digest == file.metadata().end() ||
      Sha256::Of(AsBytes(record->second)) != digest->second) {
    return absl::DataLossError("the record does not match its digest");
  }
  QL_ASSIGN_OR_RETURN(PackedTensorInfo info, ParseTensorInfo(record->second));
  for (const PackedPlaneInfo& plane : info.planes) {
    const SafetensorsTensor* stored = file.Find(StoredPlaneName(info.name, plane.name));
    if (stored == nullptr || stored->dtype != plane.dtype || stored->shape != plane.shape ||
        Sha256::Of(stored->bytes) != plane.sha256) {
      return absl::DataLossError(
          absl::StrCat("plane '", plane.name, "' does not match its record"));
    }
  }
  if (path.filename() != absl::StrCat(info.name, kStagedSuffix)) {
    return absl::DataLossError("the record is another tensor's");
  }
  return StagedTensor{std::move(info), std::move(file)};
}

// The tensor's stored size and where it goes, from its planes.
void CountBits(PackedTensorInfo& info, BitBreakdown codec_bits) {
  uint64_t padding = 0;
  for (const PackedPlaneInfo& plane : info.planes) padding += PlanePadding(plane.bytes);
  const double weights = static_cast<double>(info.weights());
  info.bits = codec_bits;
  info.bits.padding += 8.0 * static_cast<double>(padding) / weights;
  info.bits_per_weight = 8.0 * static_cast<double>(info.stored_bytes()) / weights;
}

PackedPlaneInfo DescribePlane(const PlaneView& plane) {
  return {plane.name, plane.dtype, plane.shape, plane.bytes.size(), Sha256::Of(plane.bytes)};
}

// Values rounded to `dtype`, little-endian, and the relative error of that.
struct RoundedValues {
  std::vector<uint8_t> bytes;
  double relative_error = 0;
};

absl::StatusOr<RoundedValues> RoundValues(DType dtype, absl::Span<const float> values) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", DTypeName(dtype), " is none of F32, F16 and BF16"));
  }
  RoundedValues result;
  const size_t width = DTypeSize(dtype);
  result.bytes.resize(values.size() * width);
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    float rounded = values[i];
    uint8_t* out = result.bytes.data() + i * width;
    if (dtype == DType::kF32) {
      std::memcpy(out, &rounded, width);
    } else {
      const bool half = dtype == DType::kF16;
      const uint16_t bits = half ? FloatToHalf(values[i]) : FloatToBFloat16(values[i]);
      rounded = half ? HalfToFloat(bits) : BFloat16ToFloat(bits);
      std::memcpy(out, &bits, width);
    }
    if (!std::isfinite(rounded)) {
      return absl::InvalidArgumentError(
          absl::StrCat("value ", i, " is ", values[i], ", not finite as ", DTypeName(dtype)));
    }
    const double difference = double{values[i]} - double{rounded};
    error += difference * difference;
    norm += double{values[i]} * double{values[i]};
  }
  result.relative_error = norm == 0 ? 0 : error / norm;
  return result;
}

// The tensors of one shard, and the entries of its header in file order.
struct Shard {
  std::vector<const StagedTensor*> tensors;
  std::vector<SafetensorsSpec> specs;
};

void AppendSpecs(const PackedTensorInfo& info, std::vector<SafetensorsSpec>& specs) {
  for (const PackedPlaneInfo& plane : info.planes) {
    const std::string name = StoredPlaneName(info.name, plane.name);
    specs.push_back({name, plane.dtype, plane.shape});
    const uint64_t padding = PlanePadding(plane.bytes);
    if (padding > 0) specs.push_back({PaddingName(name), DType::kU8, {padding}});
  }
}

class StagingWriter final : public PackedModelWriter {
 public:
  StagingWriter(fs::path staging, const Options& options)
      : staging_(std::move(staging)), staged_(staging_ / kStagedDirectory), options_(options) {}

  absl::Status Initialize() {
    std::error_code error;
    fs::create_directories(staging_, error);
    if (error) return DirectoryError(staging_, error);
    if (fs::exists(staging_ / kManifestFile, error)) {
      absl::StatusOr<std::shared_ptr<const PackedModel>> finished =
          PackedModel::Open(staging_, Verify::kFull);
      if (finished.ok()) {
        finished_ = *std::move(finished);
        return RemoveAll(staged_);
      }
      QL_RETURN_IF_ERROR(RemoveAll(staging_ / kManifestFile));
    }
    fs::create_directories(staged_, error);
    if (error) return DirectoryError(staged_, error);
    QL_RETURN_IF_ERROR(SyncDirectory(staging_));
    return FindStagedTensors();
  }

  const PackedTensorInfo* FindTensor(absl::string_view name) const override {
    if (finished_ != nullptr) return finished_->FindTensor(name);
    const auto it = tensors_.find(std::string(name));
    return it == tensors_.end() ? nullptr : &it->second.info;
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenMatrix(absl::string_view name) const override {
    if (finished_ != nullptr) return finished_->OpenMatrix(name);
    const auto it = tensors_.find(std::string(name));
    if (it == tensors_.end()) {
      return absl::NotFoundError(absl::StrCat("tensor '", name, "' was not added"));
    }
    const auto& [info, file] = it->second;
    if (info.recipe == kRawRecipe) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' is stored as it is"));
    }
    std::vector<PlaneView> planes;
    for (const PackedPlaneInfo& plane : info.planes) {
      const SafetensorsTensor* stored = file.Find(StoredPlaneName(info.name, plane.name));
      planes.push_back({plane.name, plane.dtype, plane.shape, stored->bytes});
    }
    return quantloom::OpenMatrix(info.recipe, info.shape[0], info.shape[1], planes);
  }

  const PackedManifest* finished() const override {
    return finished_ == nullptr ? nullptr : &finished_->manifest();
  }

  absl::Status AddEncoded(absl::string_view name, uint64_t rows, uint64_t cols,
                          const EncodedMatrix& encoded,
                          absl::string_view calibration_device) override {
    PackedTensorInfo info;
    info.name = std::string(name);
    info.shape = {rows, cols};
    info.recipe = encoded.recipe;
    info.relative_error = encoded.relative_error;
    info.calibration_device = std::string(calibration_device);
    std::vector<PlaneView> planes;
    for (const Plane& plane : encoded.planes) planes.push_back(plane.view());
    return Annotate(StageEncoded(std::move(info), planes), absl::StrCat("tensor '", name, "'"));
  }

  absl::Status AddRaw(absl::string_view name, absl::Span<const uint64_t> shape, DType dtype,
                      absl::Span<const float> values) override {
    PackedTensorInfo info;
    info.name = std::string(name);
    info.shape.assign(shape.begin(), shape.end());
    info.recipe = kRawRecipe;
    return Annotate(StageRaw(std::move(info), dtype, values), absl::StrCat("tensor '", name, "'"));
  }

  absl::StatusOr<PackedManifest> Finish(const ModelConfig& config,
                                        const std::map<std::string, std::string>& tokenizer_files,
                                        PackedManifest manifest) override {
    if (finished_ != nullptr) return ConfirmFinished(manifest);
    QL_RETURN_IF_ERROR(CheckComplete(config));
    FillManifest(config, manifest);
    const std::vector<Shard> shards = PlanShards(config);
    QL_RETURN_IF_ERROR(WriteShards(shards));
    QL_RETURN_IF_ERROR(WriteSideFiles(config, tokenizer_files, shards, manifest));
    QL_RETURN_IF_ERROR(WriteFileAtomically(staging_ / kManifestFile, ManifestToText(manifest)));
    tensors_.clear();
    QL_ASSIGN_OR_RETURN(finished_, PackedModel::Open(staging_, Verify::kHeader));
    QL_RETURN_IF_ERROR(RemoveAll(staged_));
    return manifest;
  }

 private:
  static absl::Status DirectoryError(const fs::path& path, const std::error_code& error) {
    errno = error.value();
    return ErrnoStatus("cannot use directory", path);
  }

  absl::Status FindStagedTensors() {
    std::vector<fs::path> paths;
    std::error_code error;
    for (fs::directory_iterator it(staged_, error), end; !error && it != end; it.increment(error)) {
      paths.push_back(it->path());
    }
    if (error) return DirectoryError(staged_, error);
    for (const fs::path& path : paths) {
      absl::StatusOr<StagedTensor> tensor = OpenStaged(path);
      if (tensor.ok()) {
        const std::string name = tensor->info.name;
        tensors_.emplace(name, *std::move(tensor));
      } else {
        QL_RETURN_IF_ERROR(RemoveAll(path));
      }
    }
    return absl::OkStatus();
  }

  absl::Status StageEncoded(PackedTensorInfo info, absl::Span<const PlaneView> planes) {
    QL_ASSIGN_OR_RETURN(const std::unique_ptr<PackedMatrix> matrix,
                        quantloom::OpenMatrix(info.recipe, info.shape[0], info.shape[1], planes));
    for (const PlaneView& plane : planes) info.planes.push_back(DescribePlane(plane));
    CountBits(info, matrix->bits());
    if (std::abs(info.bits.total() - info.bits_per_weight) > 1e-6) {
      return absl::InternalError(absl::StrCat("the codec accounts for ", info.bits.total(),
                                              " bits per weight of ", info.bits_per_weight));
    }
    return Stage(std::move(info), planes);
  }

  absl::Status StageRaw(PackedTensorInfo info, DType dtype, absl::Span<const float> values) {
    if (info.weights() != values.size() || values.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(values.size(), " values for a shape of ", info.weights()));
    }
    QL_ASSIGN_OR_RETURN(const RoundedValues rounded, RoundValues(dtype, values));
    const PlaneView plane = {"", dtype, info.shape, rounded.bytes};
    info.planes.push_back(DescribePlane(plane));
    info.relative_error = rounded.relative_error;
    BitBreakdown bits;
    bits.codes = 8.0 * static_cast<double>(DTypeSize(dtype));
    CountBits(info, bits);
    return Stage(std::move(info), {&plane, 1});
  }

  // Writes the tensor's file under a temporary name, durably, then renames it.
  absl::Status Stage(PackedTensorInfo info, absl::Span<const PlaneView> planes) {
    if (finished_ != nullptr) return absl::FailedPreconditionError("the model is finished");
    if (!IsPlainFileName(info.name) || absl::StartsWith(info.name, ".")) {
      return absl::InvalidArgumentError("the name cannot be a file's");
    }
    const fs::path path = staged_ / absl::StrCat(info.name, kStagedSuffix);
    const fs::path temporary = path.string() + ".tmp";
    absl::Status status = WriteStaged(temporary, info, planes);
    if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
      status = ErrnoStatus("cannot rename to", path);
    }
    if (!status.ok()) {
      std::error_code ignored;
      fs::remove(temporary, ignored);
      return status;
    }
    QL_RETURN_IF_ERROR(SyncDirectory(staged_));
    QL_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    const std::string name = info.name;
    tensors_.insert_or_assign(name, StagedTensor{std::move(info), std::move(file)});
    return absl::OkStatus();
  }

  static absl::Status WriteStaged(const fs::path& path, const PackedTensorInfo& info,
                                  absl::Span<const PlaneView> planes) {
    std::vector<SafetensorsSpec> specs;
    for (const PlaneView& plane : planes) {
      specs.push_back({StoredPlaneName(info.name, plane.name), plane.dtype, plane.shape});
    }
    const std::string record = TensorInfoToText(info);
    QL_ASSIGN_OR_RETURN(
        const auto writer,
        SafetensorsWriter::Create(
            path, specs, {{kRecordKey, record}, {kRecordDigestKey, Sha256::Of(AsBytes(record))}}));
    for (const PlaneView& plane : planes) QL_RETURN_IF_ERROR(writer->Append(plane.bytes));
    return writer->Close();
  }

  absl::Status CheckComplete(const ModelConfig& config) const {
    std::set<std::string> expected;
    for (const TensorSpec& spec : ModelTensors(config)) {
      const PackedTensorInfo* info = FindTensor(spec.name);
      if (info == nullptr || info->shape != spec.shape) {
        return absl::FailedPreconditionError(absl::StrCat(
            "tensor '", spec.name, "' was not added, or not with the shape it must have"));
      }
      expected.insert(spec.name);
    }
    for (const auto& [name, tensor] : tensors_) {
      if (!expected.contains(name)) {
        return absl::FailedPreconditionError(
            absl::StrCat("tensor '", name, "' is not one that ", config.architecture, " has"));
      }
    }
    return absl::OkStatus();
  }

  void FillManifest(const ModelConfig& config, PackedManifest& manifest) const {
    uint64_t bytes = 0, weights = 0, linear_bytes = 0, linear_weights = 0;
    manifest.tensors.clear();
    for (const TensorSpec& spec : ModelTensors(config)) {
      const PackedTensorInfo& info = tensors_.at(spec.name).info;
      manifest.tensors.push_back(info);
      bytes += info.stored_bytes();
      weights += info.weights();
      if (spec.role == TensorSpec::Role::kLinear) {
        linear_bytes += info.stored_bytes();
        linear_weights += info.weights();
      }
    }
    manifest.packed_bytes = bytes;
    manifest.bits_per_weight = 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
    manifest.linear_bits_per_weight =
        8.0 * static_cast<double>(linear_bytes) / static_cast<double>(linear_weights);
  }

  // Tensors in forward order, a new shard where the next one would pass the limit.
  std::vector<Shard> PlanShards(const ModelConfig& config) const {
    std::vector<Shard> shards(1);
    uint64_t size = 0;
    for (const TensorSpec& spec : ModelTensors(config)) {
      const StagedTensor& tensor = tensors_.at(spec.name);
      const uint64_t bytes = tensor.info.stored_bytes();
      if (size > 0 && size + bytes > options_.max_shard_bytes) {
        shards.emplace_back();
        size = 0;
      }
      size += bytes;
      shards.back().tensors.push_back(&tensor);
      AppendSpecs(tensor.info, shards.back().specs);
    }
    return shards;
  }

  static std::string ShardName(size_t index, size_t count) {
    return absl::StrFormat("model-%05d-of-%05d.safetensors", index + 1, count);
  }

  absl::Status WriteShards(absl::Span<const Shard> shards) const {
    for (size_t i = 0; i < shards.size(); ++i) {
      const fs::path path = staging_ / ShardName(i, shards.size());
      QL_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, shards[i].specs, {}));
      for (const StagedTensor* tensor : shards[i].tensors) {
        for (const PackedPlaneInfo& plane : tensor->info.planes) {
          const SafetensorsTensor* stored =
              tensor->file.Find(StoredPlaneName(tensor->info.name, plane.name));
          QL_RETURN_IF_ERROR(writer->Append(stored->bytes));
          QL_RETURN_IF_ERROR(writer->Append({kZeros, PlanePadding(plane.bytes)}));
          tensor->file.file()->Release(stored->bytes);
        }
      }
      QL_RETURN_IF_ERROR(writer->Close());
    }
    return absl::OkStatus();
  }

  // Everything beside the shards, each file recorded in the manifest.
  absl::Status WriteSideFiles(const ModelConfig& config,
                              const std::map<std::string, std::string>& tokenizer_files,
                              absl::Span<const Shard> shards, PackedManifest& manifest) const {
    manifest.files.clear();
    auto write = [&](const std::string& name, const std::string& text) {
      manifest.files[name] = {text.size(), Sha256::Of(AsBytes(text))};
      return WriteFileAtomically(staging_ / name, text);
    };
    for (const auto& [name, text] : tokenizer_files) {
      if (!IsPlainFileName(name) || name == kConfigFile || name == kManifestFile ||
          absl::EndsWith(name, kStagedSuffix) || name == kSafetensorsIndexFile) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", name, "' is no name for a tokenizer file"));
      }
      QL_RETURN_IF_ERROR(write(name, text));
    }
    const nlohmann::json quantization = {{"quant_method", "quantloom"},
                                         {"format_version", kPackedFormatVersion},
                                         {"recipe", manifest.recipe},
                                         {"bits_per_weight", manifest.linear_bits_per_weight}};
    QL_RETURN_IF_ERROR(write(kConfigFile, config.ToHfJson(DumpJson(quantization))));
    nlohmann::json index = {{"metadata", {{"total_size", manifest.packed_bytes}}},
                            {"weight_map", nlohmann::json::object()}};
    for (size_t i = 0; i < shards.size(); ++i) {
      for (const SafetensorsSpec& spec : shards[i].specs) {
        index["weight_map"][spec.name] = ShardName(i, shards.size());
      }
    }
    return write(kSafetensorsIndexFile, DumpJson(index, 2) + "\n");
  }

  absl::StatusOr<PackedManifest> ConfirmFinished(const PackedManifest& wanted) const {
    const PackedManifest& existing = finished_->manifest();
    if (existing.recipe != wanted.recipe || existing.seed != wanted.seed ||
        existing.source_sha256 != wanted.source_sha256 ||
        existing.calibration_sha256 != wanted.calibration_sha256) {
      return absl::FailedPreconditionError(
          absl::StrCat("'", staging_.string(),
                       "' holds a finished model of another recipe, seed, source or calibration"));
    }
    return existing;
  }

  fs::path staging_;
  fs::path staged_;
  Options options_;
  std::map<std::string, StagedTensor> tensors_;
  std::shared_ptr<const PackedModel> finished_;  // null until Finish
};

}  // namespace

absl::StatusOr<std::unique_ptr<PackedModelWriter>> PackedModelWriter::Open(const fs::path& staging,
                                                                           const Options& options) {
  auto writer = std::make_unique<StagingWriter>(staging, options);
  QL_RETURN_IF_ERROR(writer->Initialize());
  return writer;
}

}  // namespace quantloom
