#include "core/codec/icquant_planes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/codec/gap_code.h"
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

IcquantOutlierIndex::IcquantOutlierIndex(uint64_t rows, uint64_t cols, uint64_t per_row)
    : rows_(rows),
      segments_((cols + kGapSegmentColumns - 1) / kGapSegmentColumns),
      per_row_(per_row),
      counts_(rows),
      columns_(rows * per_row) {}

void IcquantOutlierIndex::SetRow(uint64_t row, absl::Span<const uint32_t> columns) {
  counts_[row] = static_cast<uint32_t>(columns.size());
  std::copy(columns.begin(), columns.end(), columns_.data() + row * per_row_);
}

// Calls visit(segment, columns relative to it) for the row's segments in order.
template <typename Visit>
void IcquantOutlierIndex::ForEachSegment(uint64_t row, Visit visit) const {
  const uint32_t* column = columns_.data() + row * per_row_;
  const uint32_t* end = column + counts_[row];
  uint32_t relative[kGapSegmentColumns];
  for (uint64_t segment = 0; segment < segments_; ++segment) {
    size_t count = 0;
    for (; column != end && *column / kGapSegmentColumns == segment; ++column) {
      relative[count++] = *column % kGapSegmentColumns;
    }
    visit(segment, absl::Span<const uint32_t>(relative, count));
  }
}

// The width with the fewest bits; symbols[b] gets the number of symbols at each width b.
int IcquantOutlierIndex::CheapestIndexBits(uint64_t* symbols) const {
  for (uint64_t row = 0; row < rows_; ++row) {
    ForEachSegment(row, [&](uint64_t, absl::Span<const uint32_t> columns) {
      for (int bits = kMinIndexBits; bits <= kMaxIndexBits; ++bits) {
        symbols[bits] += SegmentSymbols(columns, bits);
      }
    });
  }
  int best = kMinIndexBits;
  for (int bits = kMinIndexBits + 1; bits <= kMaxIndexBits; ++bits) {
    if (symbols[bits] * static_cast<uint64_t>(bits) < symbols[best] * static_cast<uint64_t>(best)) {
      best = bits;
    }
  }
  return best;
}

absl::StatusOr<int> IcquantOutlierIndex::Write(int index_bits, std::vector<Plane>& planes) const {
  uint64_t counted[kMaxIndexBits + 1] = {};
  const int cheapest = CheapestIndexBits(counted);
  if (index_bits == 0) index_bits = cheapest;
  const uint64_t symbols = counted[index_bits];
  if (symbols > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("icquant: ", symbols, " index symbols; at most 2^32 - 1"));
  }
  Plane index =
      NewPlane("index", DType::kU8, (symbols * static_cast<uint64_t>(index_bits) + 7) / 8);
  Plane counts = NewPlane("index_counts", DType::kU8, rows_ * segments_);
  const uint64_t groups = (rows_ + IcquantMatrix::kBaseRows - 1) / IcquantMatrix::kBaseRows;
  Plane bases = NewPlane("index_base", DType::kU32, groups * sizeof(uint32_t));
  uint64_t symbol = 0;
  for (uint64_t row = 0; row < rows_; ++row) {
    if (row % IcquantMatrix::kBaseRows == 0) {
      const uint32_t base = static_cast<uint32_t>(symbol);
      Store(bases, row / IcquantMatrix::kBaseRows, &base, 1);
    }
    ForEachSegment(row, [&](uint64_t segment, absl::Span<const uint32_t> columns) {
      const uint32_t count = SegmentSymbols(columns, index_bits);
      WriteSegment(columns, index_bits, symbol, index.bytes.data());
      counts.bytes[row * segments_ + segment] = static_cast<uint8_t>(count);
      symbol += count;
    });
  }
  planes.push_back(std::move(index));
  planes.push_back(std::move(counts));
  planes.push_back(std::move(bases));
  return index_bits;
}

}  // namespace quantloom
