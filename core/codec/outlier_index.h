// Outlier positions of a matrix, stored as a gap code (gap_code.h) with random access. Planes:
//
//   index         U8   symbols; segments of a row follow each other, rows follow each other
//   index_counts  U8   [rows, segments]: symbols of each (row, segment of 256 columns)
//   index_base    U32  [ceil(rows / 64)]: index of the first symbol of each group of 64 rows
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/codec/codec.h"
#include "core/codec/gap_code.h"
#include "core/codec/plane_set.h"

namespace quantloom {

// Outliers of a row of `cols` columns: gamma cols rounded to the nearest, halves up. Rows have
// fewer only where a segment would exceed kMaxSegmentOutliers.
uint64_t RowOutliers(double gamma, uint64_t cols);

// Columns of every row's outliers while a matrix is encoded.
class OutlierIndexWriter {
 public:
  // `per_row`: the most outliers that a row has.
  OutlierIndexWriter(uint64_t rows, uint64_t cols, uint64_t per_row);

  // Thread-safe for distinct rows. `columns` ascending.
  void SetRow(uint64_t row, absl::Span<const uint32_t> columns);
  absl::Span<const uint32_t> row(uint64_t row) const {
    return absl::MakeConstSpan(columns_).subspan(row * per_row_, counts_[row]);
  }

  // Appends the planes with symbols of `index_bits`, or of the width with the fewest bits when that
  // is 0; returns the width. INVALID_ARGUMENT, beginning with the codec's name, for more than
  // 2^32 - 1 symbols.
  absl::StatusOr<int> Write(absl::string_view codec, int index_bits,
                            std::vector<Plane>& planes) const;

 private:
  template <typename Visit>
  void ForEachSegment(uint64_t row, Visit visit) const;
  int CheapestIndexBits(uint64_t* symbols) const;

  uint64_t rows_;
  uint64_t segments_;  // of a row
  uint64_t per_row_;
  std::vector<uint32_t> counts_;
  std::vector<uint32_t> columns_;
};

// The same as it is stored. Views the planes' bytes.
class OutlierIndex {
 public:
  // Rows that share one entry of plane index_base.
  static constexpr uint64_t kBaseRows = 64;

  // Takes its planes out of `planes` and checks them: DATA_LOSS unless every symbol is in place and
  // no row has more than `per_row` outliers.
  static absl::StatusOr<OutlierIndex> Take(PlaneSet& planes, uint64_t rows, uint64_t cols,
                                           int index_bits, uint64_t per_row);

  uint64_t segments() const { return segments_; }  // of a row
  uint64_t symbols() const { return symbols_; }
  uint64_t index_bits() const { return symbols_ * static_cast<uint64_t>(symbol_bits_); }
  uint64_t checkpoint_bytes() const;

  // Calls visit(column, symbol) for the row's outliers in columns [begin, end), ascending; `symbol`
  // is the index of the symbol that names it. Cost: O(end + segments * 64).
  template <typename Visit>
  void ForEachOutlier(uint64_t row, uint64_t begin, uint64_t end, Visit visit) const {
    const uint8_t* counts = counts_ + row * segments_;
    uint64_t symbol = RowSymbol(row);
    for (uint64_t segment = 0; segment * kGapSegmentColumns < end; ++segment) {
      const uint64_t first = segment * kGapSegmentColumns;
      if (first + kGapSegmentColumns > begin) {
        ForEachSegmentOutlier(stream_, symbol_bits_, symbol, counts[segment],
                              [&](uint32_t relative, uint32_t offset) {
                                const uint64_t column = first + relative;
                                if (column >= begin && column < end) visit(column, symbol + offset);
                              });
      }
      symbol += counts[segment];
    }
  }

 private:
  OutlierIndex(uint64_t rows, uint64_t cols, int symbol_bits)
      : rows_(rows),
        cols_(cols),
        segments_((cols + kGapSegmentColumns - 1) / kGapSegmentColumns),
        symbol_bits_(symbol_bits) {}

  absl::Status Check(uint64_t per_row) const;
  uint64_t RowSymbol(uint64_t row) const;  // index of the row's first symbol

  uint64_t rows_;
  uint64_t cols_;
  uint64_t segments_;
  int symbol_bits_;
  uint64_t symbols_ = 0;
  const uint8_t* stream_ = nullptr;
  const uint8_t* counts_ = nullptr;
  const uint8_t* bases_ = nullptr;  // U32
};

}  // namespace quantloom
