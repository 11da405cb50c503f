// Writes a safetensors file as a stream: the header first, from what is known of every tensor, then
// their bytes in order.
//
//   QL_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, specs, metadata));
//   for (...) QL_RETURN_IF_ERROR(writer->Append(bytes));
//   QL_RETURN_IF_ERROR(writer->Close());
//
// The same arguments give the same bytes. Thread-safety: none.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/dtype.h"
#include "core/base/file.h"

namespace quantloom {

struct SafetensorsSpec {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;

  uint64_t bytes() const;  // of its values
};

// The size field and the JSON header, padded with spaces so that the data begins at a multiple of
// 64 bytes.
std::string SafetensorsHeader(absl::Span<const SafetensorsSpec> specs,
                              const std::map<std::string, std::string>& metadata);

class SafetensorsWriter {
 public:
  // Creates or truncates the file and writes the header. INVALID_ARGUMENT for an empty or repeated
  // name; file errors as FileWriter's.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::filesystem::path& path, absl::Span<const SafetensorsSpec> specs,
      const std::map<std::string, std::string>& metadata);

  // The next bytes of the data section; they need not end where a tensor does.
  absl::Status Append(absl::Span<const uint8_t> bytes);
  // FAILED_PRECONDITION unless exactly the bytes that the header promises were appended; fsyncs.
  absl::Status Close();

 private:
  SafetensorsWriter(std::unique_ptr<FileWriter> file, uint64_t expected_size)
      : file_(std::move(file)), expected_size_(expected_size) {}

  std::unique_ptr<FileWriter> file_;
  uint64_t expected_size_;  // of the whole file, bytes
};

}  // namespace quantloom
