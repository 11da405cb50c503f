#include "core/rounding/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/rounding/panel_product.h"
#include "core/rounding/triangle.h"

namespace quantloom {
namespace {

constexpr size_t kWidth = kPanelColumns;
// Columns factored before the matrix to their right is updated: each of its elements is loaded and
// stored once per so many multiply-adds.
constexpr size_t kStepPanels = 4;
constexpr size_t kStep = kStepPanels * kWidth;

// The state of one step: columns [first, first + kStep) of a, and the rows from `first` on in row
// blocks of 48.
class CholeskyStep {
 public:
  CholeskyStep(double* a, uint64_t n, uint64_t first, std::vector<double>& packed)
      : a_(a), n_(n), first_(first), packed_(packed) {
    packed_.assign(PanelCount(n - first) * kStep * kWidth, 0.0);
  }

  bool Run(double smallest_pivot, ThreadTeam& team) {
    const size_t row_blocks = PanelCount(n_ - first_);
    const size_t panels = std::min(row_blocks, kStepPanels);
    for (size_t p = 0; p < panels; ++p) {
      if (!FactorDiagonal(p, smallest_pivot)) return false;
      team.ParallelFor(row_blocks - p - 1, 1, [&](size_t begin, size_t end, int) {
        for (size_t r = begin; r < end; ++r) SolveBlock(p, p + 1 + r);
      });
    }
    const size_t left = row_blocks - panels;
    team.ParallelFor(TriangleSize(left), 4, [&](size_t begin, size_t end, int) {
      for (size_t index = begin; index < end; ++index) {
        const auto [row, column] = TrianglePosition(index);
        UpdateBlock(panels + row, panels + column);
      }
    });
    return true;
  }

 private:
  // Row block r of the columns factored so far, transposed: [column][48 rows].
  double* Packed(size_t r) { return packed_.data() + r * kStep * kWidth; }
  double* At(size_t r, size_t c) { return a_ + (first_ + r * kWidth) * n_ + first_ + c * kWidth; }
  size_t Extent(size_t block) const { return std::min(kWidth, n_ - first_ - block * kWidth); }

  // sums[c, r] = sum over the columns factored so far of block row `a`'s c-th row times block row
  // `b`'s r-th.
  void Products(size_t a, size_t b, size_t columns, double* sums) {
    std::fill(sums, sums + kWidth * kWidth, 0.0);
    AddPanelProduct(Packed(a), Packed(b), columns, Extent(a), sums);
  }

  // The Cholesky factor of diagonal block p.
  bool FactorDiagonal(size_t p, double smallest_pivot) {
    double* block = At(p, p);
    const size_t width = Extent(p);
    Products(p, p, p * kWidth, sums_);
    for (size_t i = 0; i < width; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        double value = block[i * n_ + j] - sums_[i * kWidth + j];
        for (size_t k = 0; k < j; ++k) value -= block[i * n_ + k] * block[j * n_ + k];
        if (i == j) {
          if (!(value > smallest_pivot) || !std::isfinite(value)) return false;
          block[i * n_ + i] = std::sqrt(value);
        } else {
          block[i * n_ + j] = value / block[j * n_ + j];
        }
      }
    }
    // Negated and transposed, what SolveBlock multiplies by.
    std::fill(std::begin(negated_), std::end(negated_), 0.0);
    for (size_t i = 0; i < width; ++i) {
      for (size_t j = 0; j < i; ++j) negated_[j * kWidth + i] = -block[i * n_ + j];
    }
    return true;
  }

  // C of row block r in panel p's columns, and its packed copy: forward substitution with the
  // diagonal block, vectorized across the 48 rows.
  void SolveBlock(size_t p, size_t r) {
    const double* diagonal = At(p, p);
    double* block = At(r, p);
    const size_t width = Extent(p), rows = Extent(r);
    alignas(64) double sums[kWidth * kWidth];
    Products(p, r, p * kWidth, sums);
    double* solved = Packed(r) + p * kWidth * kWidth;
    for (size_t c = 0; c < width; ++c) {
      double* column = solved + c * kWidth;
      for (size_t i = 0; i < rows; ++i) column[i] = block[i * n_ + c] - sums[c * kWidth + i];
      AddPanelProduct(negated_ + c, solved, c, 1, column);
      const double pivot = diagonal[c * n_ + c];
      for (size_t i = 0; i < rows; ++i) block[i * n_ + c] = column[i] /= pivot;
    }
  }

  // Block (r, c) right of the step's columns, c <= r.
  void UpdateBlock(size_t r, size_t c) {
    alignas(64) double sums[kWidth * kWidth];
    Products(r, c, kStep, sums);
    double* block = At(r, c);
    const size_t rows = Extent(r), columns = Extent(c);
    for (size_t i = 0; i < rows; ++i) {
      // Of a diagonal block the lower half alone: the upper is the caller's.
      const size_t end = r == c ? i + 1 : columns;
      for (size_t j = 0; j < end; ++j) block[i * n_ + j] -= sums[i * kWidth + j];
    }
  }

  double* a_;
  uint64_t n_;
  uint64_t first_;
  std::vector<double>& packed_;  // [row block][kStep][48]
  alignas(64) double sums_[kWidth * kWidth];
  alignas(64) double negated_[kWidth * kWidth];
};

}  // namespace

bool CholeskyInPlace(double* a, uint64_t n, double smallest_pivot, ThreadTeam& team) {
  std::vector<double> packed;
  for (uint64_t first = 0; first < n; first += kStep) {
    CholeskyStep step(a, n, first, packed);
    if (!step.Run(smallest_pivot, team)) return false;
  }
  return true;
}

}  // namespace quantloom
