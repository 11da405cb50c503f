#include "core/codec/icquant_planes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/codec/plane_set.h"

namespace quantloom {
namespace {

template <typename T>
void Store(Plane& plane, uint64_t first, const T* values, uint64_t count) {
  std::memcpy(plane.bytes.data() + first * sizeof(T), values, count * sizeof(T));
}

}  // namespace

IcquantLevelPlanes::IcquantLevelPlanes(const IcquantOptions& options, uint64_t rows)
    : options_(options), parts_(options.outliers > 0 ? 2 : 1) {
  const uint64_t levels = static_cast<uint64_t>(parts_) << options.bits;
  switch (options.codebook) {
    case IcquantCodebook::kFp16:
      planes_.push_back(NewPlane("codebook", DType::kF16, rows * levels * 2));
      break;
    case IcquantCodebook::kInt8:
      planes_.push_back(NewPlane("scale", DType::kBF16, rows * 2));
      if (options.offset == IcquantOffset::kRow) {
        planes_.push_back(NewPlane("offset", DType::kBF16, rows * 2));
      }
      if (options.bits != 8) planes_.push_back(NewPlane("codebook", DType::kI8, rows * levels));
      break;
    case IcquantCodebook::kTensor:
      planes_.push_back(NewPlane("scale", DType::kBF16, rows * 2));
      planes_.push_back(NewPlane("codebook", DType::kI8, levels));
      break;
    case IcquantCodebook::kRange:
    case IcquantCodebook::kAuto:
      planes_.push_back(NewPlane("range", DType::kF16, rows * (parts_ == 2 ? 12 : 4)));
      break;
  }
}

void IcquantLevelPlanes::StoreRow(uint64_t row, const IcquantLevels& levels) {
  const uint64_t per_part = uint64_t{1} << options_.bits;
  for (Plane& plane : planes_) {
    if (plane.name == "scale") {
      Store(plane, row, &levels.scale, 1);
    } else if (plane.name == "offset") {
      Store(plane, row, &levels.offset, 1);
    } else if (plane.name == "range") {
      Store(plane, row * (parts_ == 2 ? 6 : 2), levels.ranges.data(), parts_ == 2 ? 6 : 2);
    } else if (options_.codebook != IcquantCodebook::kTensor) {
      for (size_t part = 0; part < parts_; ++part) {
        const uint64_t first = (row * parts_ + part) * per_part;
        if (plane.dtype == DType::kF16) {
          Store(plane, first, levels.halves[part].data(), per_part);
        } else {
          Store(plane, first, levels.centroids[part].data(), per_part);
        }
      }
    }
  }
}

void IcquantLevelPlanes::StoreShared(const IcquantSharedCodebook& shared) {
  const uint64_t per_part = uint64_t{1} << options_.bits;
  for (size_t part = 0; part < parts_; ++part) {
    Store(planes_.back(), part * per_part, shared.centroids[part].data(), per_part);
  }
}

}  // namespace quantloom
