// Training of ICQuant's tensor form: one integer codebook for all rows of a matrix.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "core/base/parallel.h"
#include "core/codec/icquant_levels.h"
#include "core/codec/icquant_matrix.h"
#include "core/codec/icquant_row.h"

namespace quantloom {

// Fits the codebook to `rows` rows, which `split(i, row)` provides (called from several threads).
// Start: k-means over all rows' points, each row divided by its root mean square. Then rows' scales
// and centroids are improved in turn. The result does not depend on the team's size.
IcquantSharedCodebook TrainSharedCodebook(
    const IcquantOptions& options, uint64_t rows,
    absl::FunctionRef<void(uint64_t i, IcquantRow& row)> split, ThreadTeam& team);

}  // namespace quantloom
