// A cursor over untrusted little-endian bytes: every read is checked against the end, and a failed
// one names the field and the offset.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantloom {

static_assert(std::endian::native == std::endian::little,
              "file formats are read and written as the machine stores them");

class ByteReader {
 public:
  explicit ByteReader(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  // INVALID_ARGUMENT when fewer than `size` bytes are left.
  absl::StatusOr<absl::Span<const uint8_t>> Bytes(uint64_t size, absl::string_view field) {
    if (size > remaining()) {
      return absl::InvalidArgumentError(absl::StrCat(field, " at byte ", position_, " needs ", size,
                                                     " bytes; ", remaining(), " are left"));
    }
    const absl::Span<const uint8_t> result = bytes_.subspan(position_, size);
    position_ += size;
    return result;
  }

  template <typename T>
  absl::StatusOr<T> Scalar(absl::string_view field) {
    static_assert(std::is_arithmetic_v<T>);
    absl::StatusOr<absl::Span<const uint8_t>> bytes = Bytes(sizeof(T), field);
    if (!bytes.ok()) return bytes.status();
    T value;
    std::memcpy(&value, bytes->data(), sizeof(T));
    return value;
  }

  // A 64-bit length, then that many bytes. Views the input.
  absl::StatusOr<absl::string_view> LengthPrefixedString(absl::string_view field) {
    absl::StatusOr<uint64_t> size = Scalar<uint64_t>(field);
    if (!size.ok()) return size.status();
    absl::StatusOr<absl::Span<const uint8_t>> bytes = Bytes(*size, field);
    if (!bytes.ok()) return bytes.status();
    return absl::string_view(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  }

 private:
  absl::Span<const uint8_t> bytes_;
  uint64_t position_ = 0;
};

}  // namespace quantloom
