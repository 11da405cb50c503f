// The planes of an ICQuant matrix while it is encoded; icquant_matrix.h describes them.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/codec/icquant_levels.h"
#include "core/codec/icquant_matrix.h"
#include "core/codec/icquant_row.h"

namespace quantloom {

// The planes of the rows' levels.
class IcquantLevelPlanes {
 public:
  IcquantLevelPlanes(const IcquantOptions& options, uint64_t rows);

  // Thread-safe for distinct rows.
  void StoreRow(uint64_t row, const IcquantLevels& levels);
  // The tensor form's codebook.
  void StoreShared(const IcquantSharedCodebook& shared);
  std::vector<Plane> Take() { return std::move(planes_); }

 private:
  IcquantOptions options_;
  size_t parts_;
  std::vector<Plane> planes_;
};

// Outlier columns of every row, and their gap code.
class IcquantOutlierIndex {
 public:
  // `per_row`: the most outliers that a row has.
  IcquantOutlierIndex(uint64_t rows, uint64_t cols, uint64_t per_row);

  // Thread-safe for distinct rows.
  void SetRow(uint64_t row, absl::Span<const uint32_t> columns);
  absl::Span<const uint32_t> row(uint64_t row) const {
    return absl::MakeConstSpan(columns_).subspan(row * per_row_, counts_[row]);
  }

  // Appends the planes with symbols of `index_bits`, or of the width with the fewest bits when that
  // is 0; returns the width. INVALID_ARGUMENT for more than 2^32 - 1 symbols.
  absl::StatusOr<int> Write(int index_bits, std::vector<Plane>& planes) const;

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

}  // namespace quantloom
