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

}  // namespace quantloom
