#include "core/format/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/quoted.h"
#include "core/base/status.h"
#include "core/format/byte_reader.h"

namespace quantloom {
namespace {

constexpr absl::string_view kMagic = "GGUF";
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDimensions = 4;
// The fewest bytes that a key with its value, and a tensor's directory entry, can take in the file:
// counts are checked against them before anything is reserved.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

}  // namespace

uint64_t GgufTensor::size() const {
  uint64_t product = 1;
  for (uint64_t extent : shape) product *= extent;
  return product;
}

// Fills a GgufFile from its bytes.
class GgufParser {
 public:
  explicit GgufParser(GgufFile& file) : file_(file), reader_(file.bytes_) {}

  absl::Status Parse() {
    QL_ASSIGN_OR_RETURN(const auto magic, reader_.Bytes(kMagic.size(), "magic"));
    if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
      return absl::InvalidArgumentError("not a GGUF file: wrong magic");
    }
    QL_ASSIGN_OR_RETURN(const uint32_t version, reader_.Scalar<uint32_t>("version"));
    if (version == 0x02000000 || version == 0x03000000) {
      return absl::InvalidArgumentError("big-endian GGUF is unsupported");
    }
    if (version != 2 && version != 3) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF version ", version, " is unsupported; 2 and 3 are"));
    }
    QL_ASSIGN_OR_RETURN(const uint64_t tensors, reader_.Scalar<uint64_t>("tensor count"));
    QL_ASSIGN_OR_RETURN(const uint64_t keys, reader_.Scalar<uint64_t>("key count"));
    QL_RETURN_IF_ERROR(CheckCount("key count", keys, kMinKeyBytes));
    QL_RETURN_IF_ERROR(ParseMetadata(keys));
    QL_RETURN_IF_ERROR(CheckCount("tensor count", tensors, kMinTensorBytes));
    QL_RETURN_IF_ERROR(ParseTensors(tensors));
    return CheckOverlaps();
  }

 private:
  using Value = GgufFile::Value;
  using ValueType = GgufFile::ValueType;

  absl::Status CheckCount(absl::string_view field, uint64_t count, uint64_t bytes_each) const {
    if (count <= reader_.remaining() / bytes_each) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(field, " ", count, " does not fit in the file"));
  }

  absl::Status ParseMetadata(uint64_t count) {
    file_.metadata_.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      QL_ASSIGN_OR_RETURN(const absl::string_view key,
                          reader_.LengthPrefixedString(absl::StrCat("key ", i)));
      if (key.empty()) return absl::InvalidArgumentError(absl::StrCat("key ", i, " is empty"));
      absl::StatusOr<Value> value = ParseValue();
      if (!value.ok()) return Annotate(value.status(), absl::StrCat("key ", Quoted(key)));
      if (!file_.metadata_.emplace(key, *value).second) {
        return absl::InvalidArgumentError(absl::StrCat("key ", Quoted(key), " appears twice"));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ValueType> ParseType() {
    QL_ASSIGN_OR_RETURN(const uint32_t code, reader_.Scalar<uint32_t>("value type"));
    if (code > static_cast<uint32_t>(ValueType::kF64)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown value type ", code));
    }
    return static_cast<ValueType>(code);
  }

  absl::StatusOr<Value> ParseValue() {
    Value value{};
    QL_ASSIGN_OR_RETURN(value.type, ParseType());
    value.is_array = value.type == ValueType::kArray;
    value.count = 1;
    if (value.is_array) {
      QL_ASSIGN_OR_RETURN(value.type, ParseType());
      if (value.type == ValueType::kArray) {
        return absl::InvalidArgumentError("arrays of arrays are unsupported");
      }
      QL_ASSIGN_OR_RETURN(value.count, reader_.Scalar<uint64_t>("array length"));
    }
    const uint64_t begin = reader_.position();
    QL_RETURN_IF_ERROR(SkipElements(value.type, value.count));
    value.payload = file_.bytes_.subspan(begin, reader_.position() - begin);
    return value;
  }

  absl::Status SkipElements(ValueType type, uint64_t count) {
    if (type == ValueType::kString) {
      for (uint64_t i = 0; i < count; ++i) {
        QL_RETURN_IF_ERROR(reader_.LengthPrefixedString("string").status());
      }
      return absl::OkStatus();
    }
    const uint64_t width = ElementSize(type);
    QL_RETURN_IF_ERROR(CheckCount("array length", count, width));
    return reader_.Bytes(count * width, "value").status();
  }

  static uint64_t ElementSize(ValueType type) {
    switch (type) {
      case ValueType::kU16:
      case ValueType::kI16:
        return 2;
      case ValueType::kU32:
      case ValueType::kI32:
      case ValueType::kF32:
        return 4;
      case ValueType::kU64:
      case ValueType::kI64:
      case ValueType::kF64:
        return 8;
      default:
        return 1;
    }
  }

  absl::StatusOr<uint64_t> Alignment() const {
    constexpr absl::string_view kKey = "general.alignment";
    if (!file_.Has(kKey)) return kDefaultAlignment;
    QL_ASSIGN_OR_RETURN(const uint64_t alignment, file_.Unsigned(kKey));
    if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("key ", Quoted(kKey), ": ", alignment, " is not a power of two up to 2^20"));
    }
    return alignment;
  }

  // The directory, then the tensors' bytes from the next multiple of the alignment on.
  absl::Status ParseTensors(uint64_t count) {
    QL_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
    file_.tensors_.reserve(count);
    std::vector<uint64_t> offsets;
    offsets.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      QL_ASSIGN_OR_RETURN(const absl::string_view name,
                          reader_.LengthPrefixedString(absl::StrCat("name of tensor ", i)));
      GgufTensor tensor;
      tensor.name = std::string(name);
      absl::StatusOr<uint64_t> offset = ParseTensor(tensor, alignment);
      if (!offset.ok()) return Annotate(offset.status(), absl::StrCat("tensor ", Quoted(name)));
      offsets.push_back(*offset);
      if (!file_.tensor_index_.emplace(tensor.name, i).second) {
        return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " appears twice"));
      }
      file_.tensors_.push_back(std::move(tensor));
    }
    const uint64_t total = file_.bytes_.size();
    const uint64_t data =
        std::min(total, (reader_.position() + alignment - 1) / alignment * alignment);
    for (uint64_t i = 0; i < count; ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      const uint64_t bytes = tensor.size() / tensor.type.block_size * tensor.type.block_bytes;
      if (offsets[i] > total - data || bytes > total - data - offsets[i]) {
        return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor.name), ": ", bytes,
                                                       " bytes at offset ", offsets[i],
                                                       " lie beyond the end of the file"));
      }
      tensor.bytes = file_.bytes_.subspan(data + offsets[i], bytes);
    }
    return absl::OkStatus();
  }

  // Shape and type into `tensor`; returns its offset in the data section.
  absl::StatusOr<uint64_t> ParseTensor(GgufTensor& tensor, uint64_t alignment) {
    QL_ASSIGN_OR_RETURN(const uint32_t dimensions, reader_.Scalar<uint32_t>("dimension count"));
    if (dimensions < 1 || dimensions > kMaxDimensions) {
      return absl::InvalidArgumentError(absl::StrCat("has ", dimensions, " dimensions"));
    }
    uint64_t size = 1;
    tensor.shape.resize(dimensions);
    for (uint32_t d = 0; d < dimensions; ++d) {
      QL_ASSIGN_OR_RETURN(const uint64_t extent, reader_.Scalar<uint64_t>("dimension"));
      // A block has at most 32 values in at least one byte, so no more than that fit in the file.
      const uint64_t limit = uint64_t{32} * file_.bytes_.size();
      if (extent == 0 || extent > limit / size) {
        return absl::InvalidArgumentError(
            absl::StrCat("dimension ", d, " is ", extent, ", more than the file can hold, or 0"));
      }
      size *= extent;
      tensor.shape[dimensions - 1 - d] = extent;
    }
    QL_ASSIGN_OR_RETURN(const uint32_t code, reader_.Scalar<uint32_t>("type"));
    QL_ASSIGN_OR_RETURN(tensor.type, FindGgmlType(code));
    if (tensor.shape.back() % tensor.type.block_size != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "rows of ", tensor.shape.back(), " values are no whole blocks of ", tensor.type.name));
    }
    QL_ASSIGN_OR_RETURN(const uint64_t offset, reader_.Scalar<uint64_t>("offset"));
    if (offset % alignment != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("offset ", offset, " is not a multiple of ", alignment));
    }
    return offset;
  }

  absl::Status CheckOverlaps() const {
    std::vector<const GgufTensor*> order;
    order.reserve(file_.tensors_.size());
    for (const GgufTensor& tensor : file_.tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) {
      return a->bytes.data() < b->bytes.data();
    });
    for (size_t i = 1; i < order.size(); ++i) {
      if (order[i - 1]->bytes.end() > order[i]->bytes.begin()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "tensors ", Quoted(order[i - 1]->name), " and ", Quoted(order[i]->name), " overlap"));
      }
    }
    return absl::OkStatus();
  }

  GgufFile& file_;
  ByteReader reader_;
};

absl::StatusOr<GgufFile> GgufFile::Open(const std::filesystem::path& path) {
  QL_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> mapping, MappedFile::Open(path));
  absl::StatusOr<GgufFile> file = Parse(mapping->bytes());
  if (!file.ok()) return Annotate(file.status(), absl::StrCat("'", path.string(), "'"));
  file->file_ = std::move(mapping);
  return file;
}

absl::StatusOr<GgufFile> GgufFile::Parse(absl::Span<const uint8_t> bytes) {
  GgufFile file;
  file.bytes_ = bytes;
  QL_RETURN_IF_ERROR(GgufParser(file).Parse());
  return file;
}

absl::StatusOr<const GgufFile::Value*> GgufFile::Find(absl::string_view key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) {
    return absl::NotFoundError(absl::StrCat("key ", Quoted(key), " is missing"));
  }
  return &it->second;
}

namespace {

template <typename To, typename From>
bool ConvertNumber(const uint8_t* bytes, To& out) {
  const From value = Load<From>(bytes);
  if constexpr (std::is_floating_point_v<To>) {
    out = static_cast<To>(value);
    return true;
  } else if constexpr (std::is_floating_point_v<From>) {
    return false;
  } else {
    // An int8 is a number here, not a character.
    if (!std::in_range<To>(value)) return false;  // NOLINT(bugprone-signed-char-misuse)
    out = static_cast<To>(value);                 // NOLINT(bugprone-signed-char-misuse)
    return true;
  }
}

template <typename T>
constexpr absl::string_view Expected() {
  if constexpr (std::is_same_v<T, absl::string_view>) return "string";
  if constexpr (std::is_same_v<T, bool>) return "boolean";
  if constexpr (std::is_same_v<T, double>) return "number";
  return std::is_unsigned_v<T> ? "non-negative integer" : "integer";
}

}  // namespace

// The value at the front of `bytes`, which is advanced past it; nullopt when its type does not
// convert to T.
template <typename T>
std::optional<T> GgufFile::TakeElement(ValueType type, absl::Span<const uint8_t>& bytes) {
  T out{};
  bool fits = false;
  size_t width = 0;
  if constexpr (std::is_same_v<T, absl::string_view>) {
    if (type != ValueType::kString) return std::nullopt;
    const uint64_t size = Load<uint64_t>(bytes.data());
    out = absl::string_view(reinterpret_cast<const char*>(bytes.data()) + sizeof(size), size);
    width = sizeof(size) + size;
    fits = true;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (type != ValueType::kBool) return std::nullopt;
    out = bytes[0] != 0;
    width = 1;
    fits = true;
  } else {
    auto convert = [&]<typename From>(From) {
      width = sizeof(From);
      fits = ConvertNumber<T, From>(bytes.data(), out);
    };
    switch (type) {
      case ValueType::kU8:
        convert(uint8_t{});
        break;
      case ValueType::kI8:
        convert(int8_t{});
        break;
      case ValueType::kU16:
        convert(uint16_t{});
        break;
      case ValueType::kI16:
        convert(int16_t{});
        break;
      case ValueType::kU32:
        convert(uint32_t{});
        break;
      case ValueType::kI32:
        convert(int32_t{});
        break;
      case ValueType::kU64:
        convert(uint64_t{});
        break;
      case ValueType::kI64:
        convert(int64_t{});
        break;
      case ValueType::kF32:
        convert(float{});
        break;
      case ValueType::kF64:
        convert(double{});
        break;
      default:
        return std::nullopt;
    }
  }
  if (!fits) return std::nullopt;
  bytes.remove_prefix(width);
  return out;
}

template <typename T>
absl::StatusOr<T> GgufFile::Scalar(absl::string_view key) const {
  QL_ASSIGN_OR_RETURN(const Value* value, Find(key));
  absl::Span<const uint8_t> bytes = value->payload;
  std::optional<T> element;
  if (!value->is_array) element = TakeElement<T>(value->type, bytes);
  if (!element.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("key ", Quoted(key), " is no ", Expected<T>()));
  }
  return *element;
}

template <typename T>
absl::StatusOr<std::vector<T>> GgufFile::Array(absl::string_view key) const {
  QL_ASSIGN_OR_RETURN(const Value* value, Find(key));
  const absl::Status wrong_type = absl::InvalidArgumentError(
      absl::StrCat("key ", Quoted(key), " is no array of type ", Expected<T>()));
  if (!value->is_array) return wrong_type;
  std::vector<T> elements;
  elements.reserve(value->count);
  absl::Span<const uint8_t> bytes = value->payload;
  for (uint64_t i = 0; i < value->count; ++i) {
    const std::optional<T> element = TakeElement<T>(value->type, bytes);
    if (!element.has_value()) return wrong_type;
    elements.push_back(*element);
  }
  return elements;
}

absl::StatusOr<absl::string_view> GgufFile::String(absl::string_view key) const {
  return Scalar<absl::string_view>(key);
}
absl::StatusOr<uint64_t> GgufFile::Unsigned(absl::string_view key) const {
  return Scalar<uint64_t>(key);
}
absl::StatusOr<double> GgufFile::Number(absl::string_view key) const { return Scalar<double>(key); }
absl::StatusOr<bool> GgufFile::Bool(absl::string_view key) const { return Scalar<bool>(key); }
absl::StatusOr<std::vector<absl::string_view>> GgufFile::Strings(absl::string_view key) const {
  return Array<absl::string_view>(key);
}
absl::StatusOr<std::vector<int64_t>> GgufFile::Integers(absl::string_view key) const {
  return Array<int64_t>(key);
}
absl::StatusOr<std::vector<double>> GgufFile::Numbers(absl::string_view key) const {
  return Array<double>(key);
}

absl::StatusOr<uint64_t> GgufFile::ArraySize(absl::string_view key) const {
  QL_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!value->is_array) {
    return absl::InvalidArgumentError(absl::StrCat("key ", Quoted(key), " is no array"));
  }
  return value->count;
}

const GgufTensor* GgufFile::FindTensor(absl::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

absl::StatusOr<std::vector<float>> GgufFile::ReadFloats(absl::string_view name) const {
  const GgufTensor* tensor = FindTensor(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat("tensor ", Quoted(name), " is missing"));
  }
  std::vector<float> values(tensor->size());
  DequantizeGgml(tensor->type.type, tensor->bytes, absl::MakeSpan(values));
  return values;
}

}  // namespace quantloom
