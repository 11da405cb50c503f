// Block LDLQ: rounding with linear feedback of the errors already made (QuIP#, arXiv 2402.04396,
// section 4; QTIP, arXiv 2406.11235, section 3). With H = L D L^T, blocks of columns are quantized
// from the last to the first, block i from
//
//   W_i + sum over j > i of (W_j - What_j) L_ji,
//
// which leaves the proxy loss tr((W - What) H (W - What)^T) = tr(E D E^T), E the errors of the
// quantizer against its own targets.
//
// Matrices are column-major: W^T as [cols, rows], so that SIMD runs over rows.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "core/rounding/block_ldl.h"

namespace quantloom {

// The form that LDLQ reads, W^T [cols, rows], of row-major weights [rows, cols]. With `order`, the
// column at each place (FactoredHessian::columns); empty: as they are.
std::vector<float> Transposed(absl::Span<const float> weights, uint64_t rows, uint64_t cols,
                              ThreadTeam& team, absl::Span<const uint32_t> order = {});

// What a codec is to LDLQ: a rule that rounds a block of columns.
class ColumnQuantizer {
 public:
  virtual ~ColumnQuantizer() = default;

  // Columns of a block: 1, 8 or 16.
  virtual uint64_t width() const = 0;

  // Quantizes columns [first_column, first_column + columns) of the matrix, all rows: `targets` and
  // `decoded` are [columns, rows]. Called once per block, from the last block to the first; columns
  // = width() except for the last block of a matrix whose columns are no multiple of it. Keeps
  // whatever codes it chooses. The result must not depend on the number of threads. An error (of a
  // device that takes part) ends the run.
  virtual absl::Status Quantize(uint64_t first_column, uint64_t columns, const float* targets,
                                float* decoded, ThreadTeam& team) = 0;
};

// Rounds W^T `weights_t` [cols, rows] to `decoded_t` of the same shape. cols = ldl.size() and
// quantizer.width() = ldl.block() are preconditions. Weights of dead inputs are taken as zeros.
//
// Feedback is summed in fp32 by one chain of fused multiply-adds per element, j descending from the
// last column, and added to the weight; so it depends neither on threads nor on the SIMD target.
// Errors are the quantizer's.
absl::Status Ldlq(const BlockLdl& ldl, absl::Span<const float> weights_t, uint64_t rows,
                  ColumnQuantizer& quantizer, absl::Span<float> decoded_t, ThreadTeam& team);

// Nearest rounding through the same interface: each block from its own weights, last to first.
absl::Status RoundToNearest(absl::Span<const float> weights_t, uint64_t rows,
                            ColumnQuantizer& quantizer, absl::Span<float> decoded_t,
                            ThreadTeam& team);

}  // namespace quantloom
