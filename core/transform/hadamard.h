// The orthonormal Hadamard transform of any length, O(n log n).
//
//   HadamardTransform transform(576);                       // Hadamard(36) (x) Sylvester(16)
//   transform.Apply(Direction::kForward, x);                // x <- H x / sqrt(576)
//   transform.Apply(Direction::kTransposed, x);             // and back
//
// The matrix is H = F_1 (x) ... (x) F_r (x) Sylvester(2^k), each F one of the small Hadamard
// matrices of small_hadamard.h, not symmetric in general. Not every length has one; then the matrix
// is block-diagonal with equal blocks, each of the largest order that divides the length and can be
// made. An odd length has blocks of one element: the identity. Which factors a length gets is fixed
// for good, because packed models depend on it (docs/incoherence.md).
//
// Results have the same bits on every SIMD target, for any number of threads, and whether a vector
// is transformed alone or with others, along rows or along columns.
//
// Thread-safety: immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/base/parallel.h"

namespace quantloom {

enum class HadamardBlocks {
  kFull,  // the largest order that divides the length
  k128,   // Sylvester(128), or of the largest power of two below that divides the length
};

// The orders of one block's factors; block() blocks of them make the transform.
struct HadamardFactors {
  std::vector<size_t> small;  // outermost first, descending; see small_hadamard.h
  size_t power = 1;           // order of the innermost factor, Sylvester's

  size_t block() const;  // the product
};

// The factors that `size` elements get. Few small factors are preferred, then large ones first.
HadamardFactors FactorHadamard(size_t size, HadamardBlocks blocks);

enum class Direction { kForward, kTransposed };

class HadamardTransform {
 public:
  // T = H / sqrt(block), or H S / sqrt(block) where `signs` holds the diagonal of S: `size` values
  // of +1 or -1, or none.
  explicit HadamardTransform(size_t size, HadamardBlocks blocks = HadamardBlocks::kFull,
                             std::vector<float> signs = {});

  size_t size() const { return size_; }
  const HadamardFactors& factors() const { return factors_; }

  // x <- T x or T^T x for one vector of size() elements.
  void Apply(Direction direction, absl::Span<float> x) const;

  // The same for every row of x [rows, size()], row-major; rows follow from x.size().
  void ApplyToRows(Direction direction, absl::Span<float> x, ThreadTeam& team) const;
  void ApplyToRows(Direction direction, absl::Span<double> x, ThreadTeam& team) const;

  // The same for every column of x [size(), cols], row-major: x <- T x as a matrix product.
  void ApplyToColumns(Direction direction, absl::Span<float> x, ThreadTeam& team) const;
  void ApplyToColumns(Direction direction, absl::Span<double> x, ThreadTeam& team) const;

 private:
  // The small factors as the kernels read them: [order, order / 4] sign codes each.
  using Codes = std::vector<std::vector<uint8_t>>;

  template <typename T>
  void RowsOf(Direction direction, absl::Span<T> x, ThreadTeam& team) const;
  template <typename T>
  void ColumnsOf(Direction direction, absl::Span<T> x, ThreadTeam& team) const;
  template <typename T>
  void Vector(Direction direction, T* x) const;
  // Calls run(block) with the kernels' view of the block that starts at element `first`.
  template <class F>
  void WithBlock(Direction direction, size_t first, const F& run) const;

  size_t size_;
  HadamardFactors factors_;
  std::vector<float> signs_;  // [size] or empty
  Codes forward_, transposed_;
};

}  // namespace quantloom
