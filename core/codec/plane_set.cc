#include "core/codec/plane_set.h"

#include <algorithm>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace quantloom {

Plane NewPlane(absl::string_view name, DType dtype, uint64_t bytes) {
  Plane plane;
  plane.name = std::string(name);
  plane.dtype = dtype;
  plane.bytes.resize(PaddedPlaneBytes(bytes));
  plane.shape = {plane.bytes.size() / DTypeSize(dtype)};
  return plane;
}

absl::Status CheckShape(absl::string_view codec, uint64_t rows, uint64_t cols) {
  if (rows > 0 && cols > 0 && rows <= kMaxMatrixDimension && cols <= kMaxMatrixDimension) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(codec, ": shape [", rows, ", ", cols,
                                                 "]: each must be 1 to ", kMaxMatrixDimension));
}

absl::Status CorruptPlane(absl::string_view plane, absl::string_view reason) {
  return absl::DataLossError(absl::StrCat("plane '", plane, "' ", reason));
}

absl::StatusOr<const uint8_t*> PlaneSet::Take(absl::string_view name, DType dtype, uint64_t bytes) {
  const PlaneView* plane = nullptr;
  for (const PlaneView& candidate : planes_) {
    if (candidate.name != name) continue;
    if (plane != nullptr) return CorruptPlane(name, "is there twice");
    plane = &candidate;
  }
  if (plane == nullptr) return CorruptPlane(name, "is missing");
  if (plane->dtype != dtype) {
    return CorruptPlane(
        name, absl::StrCat("has type ", DTypeName(plane->dtype), ", not ", DTypeName(dtype)));
  }
  const uint64_t padded = PaddedPlaneBytes(bytes);
  if (plane->bytes.size() != padded || plane->shape.size() != 1 ||
      plane->shape[0] != padded / DTypeSize(dtype)) {
    return CorruptPlane(name,
                        absl::StrCat("has ", plane->bytes.size(), " bytes or another shape, not [",
                                     padded / DTypeSize(dtype), "] with ", padded, " bytes"));
  }
  const absl::Span<const uint8_t> padding = plane->bytes.subspan(bytes);
  if (std::any_of(padding.begin(), padding.end(), [](uint8_t byte) { return byte != 0; })) {
    return CorruptPlane(name, "has padding that is not zero");
  }
  taken_.push_back(name);
  content_bytes_ += bytes;
  stored_bytes_ += padded;
  return plane->bytes.data();
}

absl::Status PlaneSet::CheckAllTaken() const {
  for (const PlaneView& plane : planes_) {
    if (std::find(taken_.begin(), taken_.end(), plane.name) == taken_.end()) {
      return CorruptPlane(absl::CEscape(plane.name), "is not one that the recipe calls for");
    }
  }
  return absl::OkStatus();
}

}  // namespace quantloom
