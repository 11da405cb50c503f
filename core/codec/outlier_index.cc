#include "core/codec/outlier_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

uint64_t BaseBytes(uint64_t rows) {
  return (rows + OutlierIndex::kBaseRows - 1) / OutlierIndex::kBaseRows * sizeof(uint32_t);
}

}  // namespace

uint64_t RowOutliers(double gamma, uint64_t cols) {
  return static_cast<uint64_t>(std::floor(gamma * static_cast<double>(cols) + 0.5));
}

OutlierIndexWriter::OutlierIndexWriter(uint64_t rows, uint64_t cols, uint64_t per_row)
    : rows_(rows),
      segments_((cols + kGapSegmentColumns - 1) / kGapSegmentColumns),
      per_row_(per_row),
      counts_(rows),
      columns_(rows * per_row) {}

void OutlierIndexWriter::SetRow(uint64_t row, absl::Span<const uint32_t> columns) {
  counts_[row] = static_cast<uint32_t>(columns.size());
  std::copy(columns.begin(), columns.end(), columns_.data() + row * per_row_);
}

// Calls visit(segment, columns relative to it) for the row's segments in order.
template <typename Visit>
void OutlierIndexWriter::ForEachSegment(uint64_t row, Visit visit) const {
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
int OutlierIndexWriter::CheapestIndexBits(uint64_t* symbols) const {
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

absl::StatusOr<int> OutlierIndexWriter::Write(absl::string_view codec, int index_bits,
                                              std::vector<Plane>& planes) const {
  uint64_t counted[kMaxIndexBits + 1] = {};
  const int cheapest = CheapestIndexBits(counted);
  if (index_bits == 0) index_bits = cheapest;
  const uint64_t symbols = counted[index_bits];
  if (symbols > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat(codec, ": ", symbols, " index symbols; at most 2^32 - 1"));
  }
  Plane index =
      NewPlane("index", DType::kU8, (symbols * static_cast<uint64_t>(index_bits) + 7) / 8);
  Plane counts = NewPlane("index_counts", DType::kU8, rows_ * segments_);
  const uint64_t groups = (rows_ + OutlierIndex::kBaseRows - 1) / OutlierIndex::kBaseRows;
  Plane bases = NewPlane("index_base", DType::kU32, groups * sizeof(uint32_t));
  uint64_t symbol = 0;
  for (uint64_t row = 0; row < rows_; ++row) {
    if (row % OutlierIndex::kBaseRows == 0) {
      const uint32_t base = static_cast<uint32_t>(symbol);
      std::memcpy(bases.bytes.data() + row / OutlierIndex::kBaseRows * sizeof(base), &base,
                  sizeof(base));
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

absl::StatusOr<OutlierIndex> OutlierIndex::Take(PlaneSet& planes, uint64_t rows, uint64_t cols,
                                                int index_bits, uint64_t per_row) {
  OutlierIndex index(rows, cols, index_bits);
  const uint64_t count_bytes = rows * index.segments_;
  QL_ASSIGN_OR_RETURN(index.counts_, planes.Take("index_counts", DType::kU8, count_bytes));
  QL_ASSIGN_OR_RETURN(index.bases_, planes.Take("index_base", DType::kU32, BaseBytes(rows)));
  for (uint64_t i = 0; i < count_bytes; ++i) index.symbols_ += index.counts_[i];
  QL_ASSIGN_OR_RETURN(index.stream_,
                      planes.Take("index", DType::kU8, (index.index_bits() + 7) / 8));
  QL_RETURN_IF_ERROR(index.Check(per_row));
  return index;
}

uint64_t OutlierIndex::checkpoint_bytes() const { return rows_ * segments_ + BaseBytes(rows_); }

absl::Status OutlierIndex::Check(uint64_t per_row) const {
  uint64_t symbol = 0;
  for (uint64_t row = 0; row < rows_; ++row) {
    if (row % kBaseRows == 0 && LoadU32(bases_, row / kBaseRows) != symbol) {
      return CorruptPlane("index_base",
                          absl::StrCat("does not agree with index_counts at row ", row));
    }
    uint64_t row_outliers = 0;
    for (uint64_t segment = 0; segment < segments_; ++segment) {
      const uint64_t begin = segment * kGapSegmentColumns;
      const auto width =
          static_cast<uint32_t>(std::min<uint64_t>(cols_ - begin, kGapSegmentColumns));
      const uint32_t count = counts_[row * segments_ + segment];
      uint32_t outliers = 0;
      if (!CheckSegment(stream_, symbol_bits_, symbol, count, width, &outliers)) {
        return CorruptPlane(
            "index", absl::StrCat("has an outlier past the last column or a stray escape in row ",
                                  row, ", columns ", begin, " to ", begin + width - 1));
      }
      row_outliers += outliers;
      symbol += count;
    }
    if (row_outliers > per_row) {
      return CorruptPlane("index", absl::StrCat("has ", row_outliers, " outliers in row ", row,
                                                ", more than the recipe's ", per_row));
    }
  }
  const uint64_t used_bits = index_bits() % 8;
  if (used_bits != 0 && stream_[index_bits() / 8] >> used_bits != 0) {
    return CorruptPlane("index", "has padding that is not zero");
  }
  return absl::OkStatus();
}

uint64_t OutlierIndex::RowSymbol(uint64_t row) const {
  const uint64_t group = row / kBaseRows;
  uint64_t symbol = LoadU32(bases_, group);
  const uint8_t* end = counts_ + row * segments_;
  for (const uint8_t* count = counts_ + group * kBaseRows * segments_; count != end; ++count) {
    symbol += *count;
  }
  return symbol;
}

}  // namespace quantloom
