#include "core/codec/kmeans1d.h"

#include <algorithm>
#include <limits>

namespace quantloom {
namespace {

constexpr int kLloydIterations = 100;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

void WeightedPoints::Assign(absl::Span<const double> values, absl::Span<const double> weights) {
  order_.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) order_[i] = {values[i], weights[i]};
  // By weight among equals, so that merged weights add up in one order.
  std::sort(order_.begin(), order_.end(), [](const Point& a, const Point& b) {
    return a.value != b.value ? a.value < b.value : a.weight < b.weight;
  });
  values_.clear();
  sums_.clear();
  sums_.push_back({0, 0, 0});
  for (size_t i = 0; i < order_.size();) {
    const double value = order_[i].value;
    double weight = 0;
    for (; i < order_.size() && order_[i].value == value; ++i) weight += order_[i].weight;
    const Sums& last = sums_.back();
    values_.push_back(value);
    sums_.push_back({last.w + weight, last.wx + weight * value, last.wxx + weight * value * value});
  }
}

size_t WeightedPoints::FirstAbove(double x, size_t from) const {
  return static_cast<size_t>(
      std::upper_bound(values_.begin() + static_cast<ptrdiff_t>(from), values_.end(), x) -
      values_.begin());
}

double NearestLevelCost(const WeightedPoints& points, absl::Span<const double> levels) {
  double cost = 0;
  ForEachCell(points, levels, [&](size_t k, size_t begin, size_t end) {
    const double miss = levels[k] - points.Mean(begin, end);
    cost += points.Cost(begin, end) + points.Weight(begin, end) * miss * miss;
  });
  return cost;
}

// Row `row` of the programme: current_[j] = min over i < j of previous_[i] + cost of cell [i, j).
// The best i does not decrease with j, so solving the middle j first bounds both halves.
void Kmeans1d::SolveRow(const WeightedPoints& points, size_t row) {
  struct Task {
    size_t lo, hi;    // j in [lo, hi]
    size_t from, to;  // best i in [from, to]
  };
  const size_t n = cuts_.size() - 1;
  uint32_t* choice = choices_.data() + row * (n + 1);
  std::vector<Task> tasks;
  tasks.push_back({row + 1, n, row, n - 1});
  while (!tasks.empty()) {
    const Task task = tasks.back();
    tasks.pop_back();
    const size_t j = (task.lo + task.hi) / 2;
    double best = kInfinity;
    size_t best_i = task.from;
    const size_t to = std::min(task.to, j - 1);
    for (size_t i = task.from; i <= to; ++i) {
      const double cost = previous_[i] + points.Cost(cuts_[i], cuts_[j]);
      if (cost < best) {
        best = cost;
        best_i = i;
      }
    }
    current_[j] = best;
    choice[j] = static_cast<uint32_t>(best_i);
    if (task.lo < j) tasks.push_back({task.lo, j - 1, task.from, best_i});
    if (j < task.hi) tasks.push_back({j + 1, task.hi, best_i, task.to});
  }
}

void Kmeans1d::Lloyd(const WeightedPoints& points, absl::Span<double> centroids) const {
  double cost = NearestLevelCost(points, centroids);
  for (int iteration = 0; iteration < kLloydIterations; ++iteration) {
    std::vector<double> means(centroids.begin(), centroids.end());
    ForEachCell(points, centroids,
                [&](size_t k, size_t begin, size_t end) { means[k] = points.Mean(begin, end); });
    const double next = NearestLevelCost(points, means);
    if (!(next < cost)) return;
    cost = next;
    std::copy(means.begin(), means.end(), centroids.begin());
  }
}

void Kmeans1d::Run(const WeightedPoints& points, absl::Span<double> centroids) {
  if (points.empty()) {
    std::fill(centroids.begin(), centroids.end(), 0.0);
    return;
  }
  const size_t n = std::min(points.size(), kExactPoints);
  cuts_.resize(n + 1);
  for (size_t j = 0; j <= n; ++j) cuts_[j] = j * points.size() / n;
  const size_t k = std::min(centroids.size(), n);
  choices_.assign(k * (n + 1), 0);
  previous_.assign(n + 1, kInfinity);
  current_.assign(n + 1, kInfinity);
  for (size_t j = 1; j <= n; ++j) previous_[j] = points.Cost(0, cuts_[j]);
  for (size_t row = 1; row < k; ++row) {
    SolveRow(points, row);
    std::swap(previous_, current_);
  }
  size_t end = n;
  for (size_t row = k; row-- > 0;) {
    const size_t begin = row == 0 ? 0 : choices_[row * (n + 1) + end];
    centroids[row] = points.Mean(cuts_[begin], cuts_[end]);
    end = begin;
  }
  std::fill(centroids.begin() + static_cast<ptrdiff_t>(k), centroids.end(), centroids[k - 1]);
  if (points.size() > kExactPoints) Lloyd(points, centroids);
}

}  // namespace quantloom
