// Making planes, and reading back those of a stored matrix with every check that codecs share.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/codec/codec.h"

namespace quantloom {

// Planes are one-dimensional, and their sizes multiples of this: each starts at such a multiple
// when they are stored one after the other.
inline constexpr uint64_t kPlaneAlignment = 64;

constexpr uint64_t PaddedPlaneBytes(uint64_t bytes) {
  return (bytes + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment;
}

static_assert(std::endian::native == std::endian::little, "planes are read in place");

// Element i of a plane of 16 or 32 bits an element.
inline uint16_t LoadU16(const uint8_t* plane, uint64_t i) {
  uint16_t value;
  std::memcpy(&value, plane + 2 * i, sizeof(value));
  return value;
}
inline uint32_t LoadU32(const uint8_t* plane, uint64_t i) {
  uint32_t value;
  std::memcpy(&value, plane + 4 * i, sizeof(value));
  return value;
}

// A plane of `bytes` zero bytes, padded.
Plane NewPlane(absl::string_view name, DType dtype, uint64_t bytes);

// INVALID_ARGUMENT, beginning with the codec's name, unless both are 1 .. kMaxMatrixDimension.
absl::Status CheckShape(absl::string_view codec, uint64_t rows, uint64_t cols);

// DATA_LOSS: "plane 'NAME' REASON".
absl::Status CorruptPlane(absl::string_view plane, absl::string_view reason);

// The planes of a stored matrix, each of which must be taken exactly once.
class PlaneSet {
 public:
  explicit PlaneSet(absl::Span<const PlaneView> planes) : planes_(planes) {}

  // The bytes of a plane that holds `bytes` bytes of content. DATA_LOSS unless it is there once,
  // with this type, padded by zeros.
  absl::StatusOr<const uint8_t*> Take(absl::string_view name, DType dtype, uint64_t bytes);
  // DATA_LOSS naming a plane that was not taken.
  absl::Status CheckAllTaken() const;

  // Of the planes taken, without and with padding.
  uint64_t content_bytes() const { return content_bytes_; }
  uint64_t stored_bytes() const { return stored_bytes_; }

 private:
  absl::Span<const PlaneView> planes_;
  std::vector<absl::string_view> taken_;
  uint64_t content_bytes_ = 0;
  uint64_t stored_bytes_ = 0;
};

}  // namespace quantloom
