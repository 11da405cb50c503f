#include "core/format/packed_manifest.h"

#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/json.h"
#include "core/base/quoted.h"
#include "core/base/sha256.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr char kFormatName[] = "quantloom-packed";
constexpr absl::string_view kSealBegin = ",\n  \"sha256\": \"";
constexpr absl::string_view kSealEnd = "\"\n}\n";
constexpr size_t kDigestLength = 64;
constexpr absl::string_view kObjectEnd = "\n}";

absl::Span<const uint8_t> AsBytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

absl::Status AsDataLoss(const absl::Status& status) {
  return status.ok() ? status : absl::DataLossError(status.message());
}

// ---- to JSON

ordered_json ToJson(const BitBreakdown& bits) {
  return {{"codes", bits.codes},
          {"index", bits.index},
          {"checkpoints", bits.checkpoints},
          {"codebooks", bits.codebooks},
          {"padding", bits.padding}};
}

ordered_json ToJson(const PackedPlaneInfo& plane) {
  return {{"name", plane.name},
          {"dtype", std::string(DTypeName(plane.dtype))},
          {"shape", plane.shape},
          {"bytes", plane.bytes},
          {"sha256", plane.sha256}};
}

ordered_json ToJson(const PackedTensorInfo& tensor) {
  ordered_json planes = ordered_json::array();
  for (const PackedPlaneInfo& plane : tensor.planes) planes.push_back(ToJson(plane));
  ordered_json object = {{"name", tensor.name},         {"shape", tensor.shape},
                         {"recipe", tensor.recipe},     {"bits_per_weight", tensor.bits_per_weight},
                         {"bits", ToJson(tensor.bits)}, {"relative_error", tensor.relative_error}};
  if (!tensor.calibration_device.empty()) {
    object["calibration_device"] = tensor.calibration_device;
  }
  object["planes"] = std::move(planes);
  return object;
}

std::string Dump(const ordered_json& value, int indent) {
  return value.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

// ---- from JSON; INVALID_ARGUMENT naming the field

absl::StatusOr<double> ReadAmount(const json& object, absl::string_view key) {
  QL_ASSIGN_OR_RETURN(const double value, JsonField<double>(object, key));
  if (!std::isfinite(value) || value < 0) {
    return absl::InvalidArgumentError(absl::StrCat("field '", key, "' is negative"));
  }
  return value;
}

absl::StatusOr<std::string> ReadDigest(const json& object, absl::string_view key) {
  QL_ASSIGN_OR_RETURN(const std::string digest, JsonField<std::string>(object, key));
  bool valid = digest.size() == kDigestLength;
  for (char c : digest) valid = valid && absl::ascii_isxdigit(c) && !absl::ascii_isupper(c);
  if (!valid) {
    return absl::InvalidArgumentError(absl::StrCat("field '", key, "' is no SHA-256 digest"));
  }
  return digest;
}

absl::StatusOr<const json*> ReadMember(const json& object, absl::string_view key, bool is_array) {
  const json* value = FindJson(object, key);
  if (value == nullptr || (is_array ? !value->is_array() : !value->is_object())) {
    return absl::InvalidArgumentError(
        absl::StrCat("field '", key, "' is no ", is_array ? "list" : "object"));
  }
  return value;
}

// A shape whose size in values, times `unit` bytes, fits 63 bits; that product is returned too.
absl::StatusOr<std::vector<uint64_t>> ReadShape(const json& object, uint64_t unit,
                                                uint64_t& bytes) {
  QL_ASSIGN_OR_RETURN(const json* list, ReadMember(object, "shape", /*is_array=*/true));
  std::vector<uint64_t> shape;
  bytes = unit;
  for (const json& extent : *list) {
    if (!extent.is_number_unsigned() ||
        __builtin_mul_overflow(bytes, extent.get<uint64_t>(), &bytes) || bytes >> 63 != 0) {
      return absl::InvalidArgumentError("field 'shape' is malformed or too large");
    }
    shape.push_back(extent.get<uint64_t>());
  }
  return shape;
}

absl::StatusOr<PackedPlaneInfo> PlaneFromJson(const json& object) {
  PackedPlaneInfo plane;
  QL_ASSIGN_OR_RETURN(plane.name, JsonField<std::string>(object, "name"));
  QL_ASSIGN_OR_RETURN(const std::string dtype, JsonField<std::string>(object, "dtype"));
  const std::optional<DType> known = DTypeFromName(dtype);
  if (!known.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("field 'dtype': unknown dtype ", Quoted(dtype)));
  }
  plane.dtype = *known;
  uint64_t expected = 0;
  QL_ASSIGN_OR_RETURN(plane.shape, ReadShape(object, DTypeSize(plane.dtype), expected));
  QL_ASSIGN_OR_RETURN(plane.bytes, JsonField<uint64_t>(object, "bytes"));
  if (plane.bytes != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("field 'bytes' is ", plane.bytes, "; dtype and shape give ", expected));
  }
  QL_ASSIGN_OR_RETURN(plane.sha256, ReadDigest(object, "sha256"));
  return plane;
}

absl::StatusOr<BitBreakdown> BitsFromJson(const json& object) {
  QL_ASSIGN_OR_RETURN(const json* bits, ReadMember(object, "bits", /*is_array=*/false));
  BitBreakdown result;
  QL_ASSIGN_OR_RETURN(result.codes, ReadAmount(*bits, "codes"));
  QL_ASSIGN_OR_RETURN(result.index, ReadAmount(*bits, "index"));
  QL_ASSIGN_OR_RETURN(result.checkpoints, ReadAmount(*bits, "checkpoints"));
  QL_ASSIGN_OR_RETURN(result.codebooks, ReadAmount(*bits, "codebooks"));
  QL_ASSIGN_OR_RETURN(result.padding, ReadAmount(*bits, "padding"));
  return result;
}

absl::Status ReadPlanes(const json& object, PackedTensorInfo& tensor) {
  QL_ASSIGN_OR_RETURN(const json* planes, ReadMember(object, "planes", /*is_array=*/true));
  std::set<std::string> names;
  for (const json& entry : *planes) {
    absl::StatusOr<PackedPlaneInfo> plane = PlaneFromJson(entry);
    if (!plane.ok()) {
      return Annotate(plane.status(), absl::StrCat("plane ", tensor.planes.size()));
    }
    if (!names.insert(plane->name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("plane ", Quoted(plane->name), " appears twice"));
    }
    tensor.planes.push_back(*std::move(plane));
  }
  const bool raw = tensor.recipe == kRawRecipe;
  if (names.empty() || names.contains("") != raw || (raw && names.size() != 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("field 'planes' is not what recipe ", Quoted(tensor.recipe), " has"));
  }
  return absl::OkStatus();
}

absl::Status ReadTensor(const json& object, PackedTensorInfo& tensor) {
  uint64_t weights = 0;
  QL_ASSIGN_OR_RETURN(tensor.shape, ReadShape(object, 1, weights));
  if (weights == 0) return absl::InvalidArgumentError("field 'shape' has an extent of 0");
  QL_ASSIGN_OR_RETURN(tensor.recipe, JsonField<std::string>(object, "recipe"));
  QL_ASSIGN_OR_RETURN(tensor.bits_per_weight, ReadAmount(object, "bits_per_weight"));
  QL_ASSIGN_OR_RETURN(tensor.bits, BitsFromJson(object));
  QL_ASSIGN_OR_RETURN(tensor.relative_error, ReadAmount(object, "relative_error"));
  QL_ASSIGN_OR_RETURN(tensor.calibration_device,
                      JsonFieldOr<std::string>(object, "calibration_device", ""));
  return ReadPlanes(object, tensor);
}

absl::StatusOr<PackedTensorInfo> TensorFromJson(const json& object) {
  PackedTensorInfo tensor;
  QL_ASSIGN_OR_RETURN(tensor.name, JsonField<std::string>(object, "name"));
  if (tensor.name.empty()) return absl::InvalidArgumentError("field 'name' is empty");
  QL_RETURN_IF_ERROR(
      Annotate(ReadTensor(object, tensor), absl::StrCat("tensor ", Quoted(tensor.name))));
  return tensor;
}

absl::Status ReadFiles(const json& root, PackedManifest& manifest) {
  QL_ASSIGN_OR_RETURN(const json* files, ReadMember(root, "files", /*is_array=*/false));
  for (const auto& [name, entry] : files->items()) {
    if (!IsPlainFileName(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("field 'files': ", Quoted(name), " is no file name"));
    }
    PackedFileInfo& file = manifest.files[name];
    QL_ASSIGN_OR_RETURN(file.bytes, JsonField<uint64_t>(entry, "bytes"));
    QL_ASSIGN_OR_RETURN(file.sha256, ReadDigest(entry, "sha256"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedManifest> ManifestFromJson(const json& root) {
  PackedManifest manifest;
  QL_ASSIGN_OR_RETURN(manifest.recipe, JsonField<std::string>(root, "recipe"));
  QL_ASSIGN_OR_RETURN(manifest.seed, JsonField<uint64_t>(root, "seed"));
  QL_ASSIGN_OR_RETURN(manifest.source_sha256, JsonField<std::string>(root, "source_sha256"));
  QL_ASSIGN_OR_RETURN(manifest.calibration_sha256,
                      JsonField<std::string>(root, "calibration_sha256"));
  QL_ASSIGN_OR_RETURN(manifest.linear_bits_per_weight, ReadAmount(root, "linear_bits_per_weight"));
  QL_ASSIGN_OR_RETURN(manifest.bits_per_weight, ReadAmount(root, "bits_per_weight"));
  QL_ASSIGN_OR_RETURN(manifest.packed_bytes, JsonField<uint64_t>(root, "packed_bytes"));
  QL_RETURN_IF_ERROR(ReadFiles(root, manifest));
  QL_ASSIGN_OR_RETURN(const json* tensors, ReadMember(root, "tensors", /*is_array=*/true));
  std::set<std::string> names;
  for (const json& entry : *tensors) {
    absl::StatusOr<PackedTensorInfo> tensor = TensorFromJson(entry);
    if (!tensor.ok()) {
      return Annotate(tensor.status(),
                      absl::StrCat("field 'tensors', entry ", manifest.tensors.size()));
    }
    if (!names.insert(tensor->name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(tensor->name), " appears twice"));
    }
    manifest.tensors.push_back(*std::move(tensor));
  }
  return manifest;
}

absl::Status CheckSeal(absl::string_view text) {
  const size_t seal_size = kSealBegin.size() + kDigestLength + kSealEnd.size();
  if (text.size() < seal_size) return absl::DataLossError("field 'sha256' is missing");
  const absl::string_view covered = text.substr(0, text.size() - seal_size);
  if (SealManifest(absl::StrCat(covered, kObjectEnd)) != text) {
    return absl::DataLossError("field 'sha256' is not the digest of the text before it");
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t PackedTensorInfo::weights() const {
  uint64_t product = 1;
  for (uint64_t extent : shape) product *= extent;
  return product;
}

uint64_t PackedTensorInfo::stored_bytes() const {
  uint64_t total = 0;
  for (const PackedPlaneInfo& plane : planes) total += plane.bytes + PlanePadding(plane.bytes);
  return total;
}

std::string SealManifest(absl::string_view object) {
  const absl::string_view covered = object.substr(0, object.size() - kObjectEnd.size());
  return absl::StrCat(covered, kSealBegin, Sha256::Of(AsBytes(covered)), kSealEnd);
}

std::string ManifestToText(const PackedManifest& manifest) {
  ordered_json root = {{"format", kFormatName},
                       {"format_version", kPackedFormatVersion},
                       {"recipe", manifest.recipe},
                       {"seed", manifest.seed},
                       {"source_sha256", manifest.source_sha256},
                       {"calibration_sha256", manifest.calibration_sha256},
                       {"linear_bits_per_weight", manifest.linear_bits_per_weight},
                       {"bits_per_weight", manifest.bits_per_weight},
                       {"packed_bytes", manifest.packed_bytes}};
  ordered_json files = ordered_json::object();
  for (const auto& [name, file] : manifest.files) {
    files[name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  }
  root["files"] = std::move(files);
  ordered_json tensors = ordered_json::array();
  for (const PackedTensorInfo& tensor : manifest.tensors) tensors.push_back(ToJson(tensor));
  root["tensors"] = std::move(tensors);
  return SealManifest(Dump(root, 2));
}

absl::StatusOr<PackedManifest> ParseManifest(absl::string_view text) {
  const absl::StatusOr<json> root = ParseJsonObject(text);
  if (!root.ok()) return AsDataLoss(root.status());
  const absl::StatusOr<std::string> format = JsonField<std::string>(*root, "format");
  if (!format.ok() || *format != kFormatName) {
    return absl::InvalidArgumentError(absl::StrCat("field 'format' is not '", kFormatName, "'"));
  }
  QL_ASSIGN_OR_RETURN(const uint64_t version, JsonField<uint64_t>(*root, "format_version"));
  if (version != kPackedFormatVersion) {
    return absl::InvalidArgumentError(absl::StrCat("field 'format_version' is ", version,
                                                   "; this build reads ", kPackedFormatVersion));
  }
  QL_RETURN_IF_ERROR(CheckSeal(text));
  absl::StatusOr<PackedManifest> manifest = ManifestFromJson(*root);
  if (!manifest.ok()) return AsDataLoss(manifest.status());
  return manifest;
}

std::string TensorInfoToText(const PackedTensorInfo& info) { return Dump(ToJson(info), -1); }

absl::StatusOr<PackedTensorInfo> ParseTensorInfo(absl::string_view text) {
  QL_ASSIGN_OR_RETURN(const json object, ParseJsonObject(text));
  return TensorFromJson(object);
}

std::string StoredPlaneName(absl::string_view tensor, absl::string_view plane) {
  return plane.empty() ? std::string(tensor) : absl::StrCat(tensor, ".", plane);
}

std::string PaddingName(absl::string_view stored_plane_name) {
  return absl::StrCat(stored_plane_name, ".__pad");
}

bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name != "." && name != ".." && !absl::StrContains(name, '/') &&
         !absl::StrContains(name, '\0') && name.size() <= 200;
}

}  // namespace quantloom
