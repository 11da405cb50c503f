#include "core/format/safetensors_writer.h"

#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/json.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

constexpr size_t kDataAlignment = 64;  // bytes: a cache line, and what packed models promise

absl::Span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

uint64_t SafetensorsSpec::bytes() const {
  uint64_t size = DTypeSize(dtype);
  for (uint64_t extent : shape) size *= extent;
  return size;
}

std::string SafetensorsHeader(absl::Span<const SafetensorsSpec> specs,
                              const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const SafetensorsSpec& spec : specs) {
    const uint64_t end = offset + spec.bytes();
    header[spec.name] = {{"dtype", std::string(DTypeName(spec.dtype))},
                         {"shape", spec.shape},
                         {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  const size_t unpadded = sizeof(uint64_t) + text.size();
  text.append((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment, ' ');
  const uint64_t size = text.size();
  std::string result(sizeof(size), '\0');
  std::memcpy(result.data(), &size, sizeof(size));
  return result + text;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::filesystem::path& path, absl::Span<const SafetensorsSpec> specs,
    const std::map<std::string, std::string>& metadata) {
  std::set<absl::string_view> names;
  uint64_t data_size = 0;
  for (const SafetensorsSpec& spec : specs) {
    if (spec.name.empty() || !names.insert(spec.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("'", path.string(), "': tensor name '",
                                                     spec.name, "' is empty or appears twice"));
    }
    data_size += spec.bytes();
  }
  const std::string header = SafetensorsHeader(specs, metadata);
  QL_ASSIGN_OR_RETURN(std::unique_ptr<FileWriter> file, FileWriter::Create(path));
  QL_RETURN_IF_ERROR(file->Append(AsBytes(header)));
  return std::unique_ptr<SafetensorsWriter>(
      new SafetensorsWriter(std::move(file), header.size() + data_size));
}

absl::Status SafetensorsWriter::Append(absl::Span<const uint8_t> bytes) {
  return file_->Append(bytes);
}

absl::Status SafetensorsWriter::Close() {
  if (file_->size() != expected_size_) {
    return absl::FailedPreconditionError(absl::StrCat("a safetensors file of ", expected_size_,
                                                      " bytes was closed after ", file_->size()));
  }
  return file_->Close();
}

}  // namespace quantloom
