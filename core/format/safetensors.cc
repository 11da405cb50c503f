#include "core/format/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/base/json.h"
#include "core/base/quoted.h"
#include "core/base/status.h"
#include "core/format/byte_reader.h"

namespace quantloom {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr char kMetadataKey[] = "__metadata__";

absl::StatusOr<std::vector<uint64_t>> ReadUnsignedList(const json& entry, absl::string_view key) {
  const json* list = FindJson(entry, key);
  if (list == nullptr || !list->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("field '", key, "' is not a list"));
  }
  std::vector<uint64_t> values;
  values.reserve(list->size());
  for (const json& element : *list) {
    if (!element.is_number_unsigned()) {
      return absl::InvalidArgumentError(
          absl::StrCat("field '", key, "' holds what is no non-negative integer"));
    }
    values.push_back(element.get<uint64_t>());
  }
  return values;
}

// Type, shape and bytes of one header entry; `data` is the file's data section.
absl::Status ReadEntry(const json& entry, absl::Span<const uint8_t> data,
                       SafetensorsTensor& tensor) {
  QL_ASSIGN_OR_RETURN(const std::string dtype, JsonField<std::string>(entry, "dtype"));
  const std::optional<DType> known = DTypeFromName(dtype);
  if (!known.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("unsupported dtype ", Quoted(dtype)));
  }
  tensor.dtype = *known;
  QL_ASSIGN_OR_RETURN(tensor.shape, ReadUnsignedList(entry, "shape"));
  QL_ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets, ReadUnsignedList(entry, "data_offsets"));
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data.size()) {
    return absl::InvalidArgumentError(absl::StrCat("field 'data_offsets' is no range within the ",
                                                   data.size(), " bytes of data"));
  }
  const uint64_t size = offsets[1] - offsets[0];
  uint64_t expected = DTypeSize(tensor.dtype);
  for (uint64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(expected, extent, &expected)) {
      return absl::InvalidArgumentError("field 'shape' overflows 64 bits");
    }
  }
  if (size != expected) {
    return absl::InvalidArgumentError(absl::StrCat("field 'shape' needs ", expected, " bytes of ",
                                                   dtype, ", field 'data_offsets' spans ", size));
  }
  tensor.bytes = data.subspan(offsets[0], size);
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, std::string>> ReadMetadata(const json& entry) {
  std::map<std::string, std::string> metadata;
  if (!entry.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("field '", kMetadataKey, "' is not an object"));
  }
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("field '", kMetadataKey, "': ", Quoted(key), " is not a string"));
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// `tensors`, sorted by their bytes, cover `data` without overlap or hole.
absl::Status CheckContiguous(absl::Span<const SafetensorsTensor> tensors,
                             absl::Span<const uint8_t> data) {
  const uint8_t* next = data.begin();
  for (const SafetensorsTensor& tensor : tensors) {
    if (tensor.bytes.begin() != next) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(tensor.name), ": field 'data_offsets' begins at ",
                       tensor.bytes.begin() - data.begin(), ", the tensor before it ends at ",
                       next - data.begin()));
    }
    next = tensor.bytes.end();
  }
  if (next != data.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(data.end() - next, " bytes after the last tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<json> ReadHeader(ByteReader& reader) {
  QL_ASSIGN_OR_RETURN(const uint64_t size, reader.Scalar<uint64_t>("header size"));
  if (size > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("header size ", size, " is too large"));
  }
  QL_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> text, reader.Bytes(size, "header"));
  absl::StatusOr<json> header =
      ParseJsonObject(absl::string_view(reinterpret_cast<const char*>(text.data()), text.size()));
  if (!header.ok()) return Annotate(header.status(), "header");
  return header;
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::filesystem::path& path) {
  QL_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> mapping, MappedFile::Open(path));
  absl::StatusOr<SafetensorsFile> file = Parse(mapping->bytes());
  if (!file.ok()) return Annotate(file.status(), absl::StrCat("'", path.string(), "'"));
  file->file_ = std::move(mapping);
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::Span<const uint8_t> bytes) {
  ByteReader reader(bytes);
  QL_ASSIGN_OR_RETURN(const json header, ReadHeader(reader));
  const absl::Span<const uint8_t> data = bytes.subspan(reader.position());
  SafetensorsFile file;
  file.tensors_.reserve(header.size());
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      QL_ASSIGN_OR_RETURN(file.metadata_, ReadMetadata(entry));
      continue;
    }
    SafetensorsTensor tensor;
    tensor.name = name;
    QL_RETURN_IF_ERROR(
        Annotate(ReadEntry(entry, data, tensor), absl::StrCat("tensor ", Quoted(name))));
    file.tensors_.push_back(std::move(tensor));
  }
  // Empty tensors share their offset with the one that follows.
  std::stable_sort(file.tensors_.begin(), file.tensors_.end(),
                   [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
                     return std::pair(a.bytes.begin(), a.bytes.end()) <
                            std::pair(b.bytes.begin(), b.bytes.end());
                   });
  QL_RETURN_IF_ERROR(CheckContiguous(file.tensors_, data));
  for (size_t i = 0; i < file.tensors_.size(); ++i) file.index_[file.tensors_[i].name] = i;
  return file;
}

const SafetensorsTensor* SafetensorsFile::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

namespace {

// Tensor name -> file name, from the index's `weight_map`.
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(
    const std::filesystem::path& index_path) {
  QL_ASSIGN_OR_RETURN(const std::string text, ReadFile(index_path, kMaxHeaderBytes));
  QL_ASSIGN_OR_RETURN(const json index, ParseJsonObject(text));
  const json* weight_map = FindJson(index, "weight_map");
  if (weight_map == nullptr || !weight_map->is_object()) {
    return absl::InvalidArgumentError("field 'weight_map' is not an object");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("field 'weight_map': the file of ", Quoted(tensor), " is not a string"));
    }
    files[tensor] = file.get<std::string>();
    const std::filesystem::path name = files[tensor];
    if (name.empty() || name != name.filename() || name == "." || name == ".." ||
        name.string().find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("field 'weight_map': ", Quoted(name.string()), " is no file name"));
    }
  }
  return files;
}

}  // namespace

absl::StatusOr<SafetensorsDirectory> SafetensorsDirectory::Open(
    const std::filesystem::path& directory) {
  SafetensorsDirectory result;
  const std::filesystem::path index_path = directory / kSafetensorsIndexFile;
  std::error_code error;
  if (!std::filesystem::exists(index_path, error)) {
    QL_ASSIGN_OR_RETURN(SafetensorsFile file,
                        SafetensorsFile::Open(directory / kSafetensorsSingleFile));
    const SafetensorsFile& shard =
        result.shards_.emplace(kSafetensorsSingleFile, std::move(file)).first->second;
    for (const SafetensorsTensor& tensor : shard.tensors()) result.shard_of_[tensor.name] = &shard;
    return result;
  }
  const absl::StatusOr<std::map<std::string, std::string>> files = ReadWeightMap(index_path);
  if (!files.ok()) return Annotate(files.status(), absl::StrCat("'", index_path.string(), "'"));
  for (const auto& [tensor, name] : *files) {
    auto it = result.shards_.find(name);
    if (it == result.shards_.end()) {
      QL_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(directory / name));
      it = result.shards_.emplace(name, std::move(file)).first;
    }
    if (it->second.Find(tensor) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("'", index_path.string(), "': tensor ",
                                                     Quoted(tensor), " is not in ", Quoted(name)));
    }
    result.shard_of_[tensor] = &it->second;
  }
  return result;
}

const SafetensorsFile* SafetensorsDirectory::FindShard(absl::string_view name) const {
  const auto it = shard_of_.find(name);
  return it == shard_of_.end() ? nullptr : it->second;
}

std::vector<std::string> SafetensorsDirectory::names() const {
  std::vector<std::string> names;
  names.reserve(shard_of_.size());
  for (const auto& [name, shard] : shard_of_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

const SafetensorsTensor* SafetensorsDirectory::Find(absl::string_view name) const {
  const SafetensorsFile* shard = FindShard(name);
  return shard == nullptr ? nullptr : shard->Find(name);
}

absl::StatusOr<std::vector<float>> FloatsFromBytes(DType dtype, absl::Span<const uint8_t> bytes) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", DTypeName(dtype), " is none of F32, F16 and BF16"));
  }
  std::vector<float> values(bytes.size() / DTypeSize(dtype));
  if (dtype == DType::kF32) {
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, sizeof(bits));
    values[i] = dtype == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits);
  }
  return values;
}

}  // namespace quantloom
