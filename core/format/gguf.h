// GGUF files, versions 2 and 3, little-endian: metadata, tensor directory, tensor values.
//
//   QL_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open("model.gguf"));
//   QL_ASSIGN_OR_RETURN(absl::string_view arch, file.String("general.architecture"));
//   QL_ASSIGN_OR_RETURN(std::vector<float> values, file.ReadFloats("token_embd.weight"));
//
// Everything is validated by Open. Strings and spans that are handed out view the file's mapping:
// they live as long as this object or a copy of it. Thread-safety: immutable after Open; const
// methods may be called from several threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/file.h"
#include "core/format/ggml_type.h"

namespace quantloom {

struct GgufTensor {
  std::string name;
  // Row-major as everywhere else here: the file's dimensions, which begin with the fastest,
  // reversed.
  std::vector<uint64_t> shape;
  GgmlTypeInfo type;
  absl::Span<const uint8_t> bytes;

  uint64_t size() const;  // number of values
};

class GgufFile {
 public:
  // NOT_FOUND for a missing file; INVALID_ARGUMENT naming the file and the key, tensor or field for
  // anything malformed, and for tensor types that DequantizeGgml does not have.
  static absl::StatusOr<GgufFile> Open(const std::filesystem::path& path);
  // The same for bytes in memory, which must outlive the object.
  static absl::StatusOr<GgufFile> Parse(absl::Span<const uint8_t> bytes);

  // Metadata. Each accessor: NOT_FOUND for a missing key, INVALID_ARGUMENT for another type; both
  // name the key. Integers of every width are accepted where they fit, and as numbers.
  bool Has(absl::string_view key) const { return metadata_.contains(key); }
  absl::StatusOr<absl::string_view> String(absl::string_view key) const;
  absl::StatusOr<uint64_t> Unsigned(absl::string_view key) const;
  absl::StatusOr<double> Number(absl::string_view key) const;
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  absl::StatusOr<std::vector<absl::string_view>> Strings(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Integers(absl::string_view key) const;
  absl::StatusOr<std::vector<double>> Numbers(absl::string_view key) const;
  // The number of an array's elements.
  absl::StatusOr<uint64_t> ArraySize(absl::string_view key) const;

  // In the file's order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* FindTensor(absl::string_view name) const;  // null when there is none
  absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name) const;

  // The whole file's bytes.
  absl::Span<const uint8_t> bytes() const { return bytes_; }

 private:
  friend class GgufParser;

  // Numbered as in the file.
  enum class ValueType : uint32_t {
    kU8,
    kI8,
    kU16,
    kI16,
    kU32,
    kI32,
    kF32,
    kBool,
    kString,
    kArray,
    kU64,
    kI64,
    kF64,
  };
  // `payload` holds `count` validated values of `type`, one for what is no array.
  struct Value {
    ValueType type;
    bool is_array;
    uint64_t count;
    absl::Span<const uint8_t> payload;
  };

  absl::StatusOr<const Value*> Find(absl::string_view key) const;
  template <typename T>
  static std::optional<T> TakeElement(ValueType type, absl::Span<const uint8_t>& bytes);
  template <typename T>
  absl::StatusOr<T> Scalar(absl::string_view key) const;
  template <typename T>
  absl::StatusOr<std::vector<T>> Array(absl::string_view key) const;

  std::shared_ptr<const MappedFile> file_;  // null when the bytes are the caller's
  absl::Span<const uint8_t> bytes_;
  absl::flat_hash_map<std::string, Value> metadata_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> tensor_index_;
};

}  // namespace quantloom
