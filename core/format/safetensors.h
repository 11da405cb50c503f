// Reads safetensors files, one or a sharded directory of them. A file is a 64-bit header size, a
// JSON header (name -> dtype, shape, data_offsets) and the tensors' bytes, without holes.
//
// Everything is validated by Open; spans that are handed out view the mappings, which live as long
// as the objects. Thread-safety: immutable after Open; const methods may be called from several
// threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/dtype.h"
#include "core/base/file.h"

namespace quantloom {

struct SafetensorsTensor {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;
  absl::Span<const uint8_t> bytes;
};

class SafetensorsFile {
 public:
  // NOT_FOUND for a missing file; INVALID_ARGUMENT naming the file and the tensor or field for
  // anything malformed: a header that is not JSON, unknown dtypes, shapes that contradict the
  // offsets, offsets that overlap, leave holes or pass the end.
  static absl::StatusOr<SafetensorsFile> Open(const std::filesystem::path& path);
  // The same for bytes in memory, which must outlive the object.
  static absl::StatusOr<SafetensorsFile> Parse(absl::Span<const uint8_t> bytes);

  // In the order of their bytes.
  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  const SafetensorsTensor* Find(absl::string_view name) const;  // null when there is none
  // The header's `__metadata__`.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // The mapped file; null after Parse.
  const MappedFile* file() const { return file_.get(); }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<SafetensorsTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

inline constexpr char kSafetensorsIndexFile[] = "model.safetensors.index.json";
inline constexpr char kSafetensorsSingleFile[] = "model.safetensors";

// A directory with model.safetensors.index.json and the shards that it names, or else with
// model.safetensors alone.
class SafetensorsDirectory {
 public:
  SafetensorsDirectory(SafetensorsDirectory&&) = default;
  SafetensorsDirectory& operator=(SafetensorsDirectory&&) = default;

  // NOT_FOUND when the directory has neither; otherwise as SafetensorsFile::Open, and
  // INVALID_ARGUMENT for an index that names a file outside the directory, or a tensor that its
  // file does not hold.
  static absl::StatusOr<SafetensorsDirectory> Open(const std::filesystem::path& directory);

  // Shards by file name, in name order.
  const std::map<std::string, SafetensorsFile>& shards() const { return shards_; }
  // Tensors that the index does not name are not found.
  const SafetensorsTensor* Find(absl::string_view name) const;
  // The shard that Find's tensor lies in; null when there is none.
  const SafetensorsFile* FindShard(absl::string_view name) const;
  // Of all tensors that Find finds, in alphabetical order.
  std::vector<std::string> names() const;

 private:
  SafetensorsDirectory() = default;
  std::map<std::string, SafetensorsFile> shards_;  // nodes do not move: shard_of_ points at them
  absl::flat_hash_map<std::string, const SafetensorsFile*> shard_of_;
};

// F32, F16 or BF16 values as floats; INVALID_ARGUMENT for another dtype.
absl::StatusOr<std::vector<float>> FloatsFromBytes(DType dtype, absl::Span<const uint8_t> bytes);

}  // namespace quantloom
