// Exact weighted k-means on a line.
//
// Sorted points make every cluster an interval, and the cost of an interval (weighted squared
// distance to its mean) satisfies the quadrangle inequality, so the best k intervals follow from a
// dynamic programme whose row minima are monotone: O(k n log n) by divide and conquer (Grønlund et
// al., "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D", arXiv 1701.07204).
//
// Everything is double arithmetic in a fixed order: results do not depend on machine or threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quantloom {

// Points on a line with positive weights, sorted, equal values merged, and prefix sums that make
// the cost of any interval O(1). Reusable: Assign keeps the buffers.
class WeightedPoints {
 public:
  // Sizes must be equal; values finite, weights positive. O(n log n).
  void Assign(absl::Span<const double> values, absl::Span<const double> weights);

  // Distinct values.
  size_t size() const { return values_.size(); }
  bool empty() const { return values_.empty(); }
  double value(size_t i) const { return values_[i]; }
  double front() const { return values_.front(); }
  double back() const { return values_.back(); }

  // Of points [begin, end), begin < end.
  double Weight(size_t begin, size_t end) const { return sums_[end].w - sums_[begin].w; }
  double Mean(size_t begin, size_t end) const {
    return (sums_[end].wx - sums_[begin].wx) / Weight(begin, end);
  }
  // Weighted sum of squared distances to the mean.
  double Cost(size_t begin, size_t end) const {
    const double wx = sums_[end].wx - sums_[begin].wx;
    const double cost = sums_[end].wxx - sums_[begin].wxx - wx * wx / Weight(begin, end);
    return cost > 0 ? cost : 0;
  }
  // Weighted sums of the values and of their squares.
  double WeightedSum(size_t begin, size_t end) const { return sums_[end].wx - sums_[begin].wx; }
  double WeightedSquares() const { return empty() ? 0 : sums_.back().wxx; }
  double TotalWeight() const { return empty() ? 0 : sums_.back().w; }

  // Index of the first point above `x`, from `from` on.
  size_t FirstAbove(double x, size_t from) const;

 private:
  struct Sums {
    double w, wx, wxx;
  };
  struct Point {
    double value, weight;
  };
  std::vector<Point> order_;
  std::vector<double> values_;
  std::vector<Sums> sums_;  // size() + 1 prefix sums
};

// Calls visit(level, begin, end) for each non-empty cell of the nearest-level partition of `points`
// under ascending `levels` (a point halfway between two goes to the lower one).
template <typename Visit>
void ForEachCell(const WeightedPoints& points, absl::Span<const double> levels, Visit visit) {
  size_t begin = 0;
  for (size_t k = 0; k < levels.size() && begin < points.size(); ++k) {
    const size_t end = k + 1 < levels.size()
                           ? points.FirstAbove((levels[k] + levels[k + 1]) / 2, begin)
                           : points.size();
    if (end > begin) visit(k, begin, end);
    begin = end;
  }
}

// Weighted squared error of the nearest of ascending `levels`.
double NearestLevelCost(const WeightedPoints& points, absl::Span<const double> levels);

// Finds centroids; keeps its tables between calls. One per thread.
class Kmeans1d {
 public:
  // Up to this many distinct points the result is the optimum. Beyond, the programme runs over this
  // many quantiles as cell boundaries and Lloyd's iteration on all points follows.
  static constexpr size_t kExactPoints = 1024;

  // Sets centroids[0..k) ascending. With fewer than k distinct values the last is repeated; without
  // points all are 0.
  void Run(const WeightedPoints& points, absl::Span<double> centroids);

 private:
  void SolveRow(const WeightedPoints& points, size_t row);
  void Lloyd(const WeightedPoints& points, absl::Span<double> centroids) const;

  std::vector<size_t> cuts_;       // candidate cell boundaries, point indices
  std::vector<double> previous_;   // best cost of the first j cuts in row - 1 cells
  std::vector<double> current_;    // ... in `row` cells
  std::vector<uint32_t> choices_;  // [row][j]: the last cell's begin, as a cut index
};

}  // namespace quantloom
