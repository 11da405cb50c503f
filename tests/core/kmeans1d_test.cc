#include "core/codec/kmeans1d.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

namespace quantloom {
namespace {

struct Points {
  std::vector<double> values;
  std::vector<double> weights;
};

Points RandomPoints(size_t count, uint32_t seed, int distinct) {
  std::mt19937 random(seed);
  Points points;
  for (size_t i = 0; i < count; ++i) {
    points.values.push_back(distinct > 0 ? static_cast<double>(random() % distinct)
                                         : static_cast<double>(random()) / 4294967296.0 - 0.5);
    points.weights.push_back(static_cast<double>(random() % 1000 + 1));
  }
  return points;
}

// Cost of the best partition of the sorted points into at most k intervals, by trying them all.
double BruteForceCost(const Points& points, size_t k) {
  std::vector<size_t> order(points.values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return points.values[a] < points.values[b]; });
  const auto interval_cost = [&](size_t begin, size_t end) {
    double w = 0;
    double wx = 0;
    for (size_t i = begin; i < end; ++i) {
      w += points.weights[order[i]];
      wx += points.weights[order[i]] * points.values[order[i]];
    }
    double cost = 0;
    for (size_t i = begin; i < end; ++i) {
      const double miss = points.values[order[i]] - wx / w;
      cost += points.weights[order[i]] * miss * miss;
    }
    return cost;
  };
  std::function<double(size_t, size_t)> best = [&](size_t begin, size_t cells) {
    if (begin == order.size()) return 0.0;
    if (cells == 1) return interval_cost(begin, order.size());
    double least = std::numeric_limits<double>::infinity();
    for (size_t end = begin + 1; end <= order.size(); ++end) {
      least = std::min(least, interval_cost(begin, end) + best(end, cells - 1));
    }
    return least;
  };
  return best(0, k);
}

// Cost by definition: every point to its nearest centroid.
double Cost(const Points& points, const std::vector<double>& centroids) {
  double cost = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (const double centroid : centroids) {
      least = std::min(least, (points.values[i] - centroid) * (points.values[i] - centroid));
    }
    cost += points.weights[i] * least;
  }
  return cost;
}

std::vector<double> Centroids(const Points& points, size_t k) {
  WeightedPoints sorted;
  sorted.Assign(points.values, points.weights);
  Kmeans1d kmeans;
  std::vector<double> centroids(k);
  kmeans.Run(sorted, absl::MakeSpan(centroids));
  return centroids;
}

TEST(Kmeans1dTest, Run_FindsTheOptimum) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const Points points = RandomPoints(1 + seed % 13, seed, seed % 3 == 0 ? 6 : 0);
    for (size_t k = 1; k <= 4; ++k) {
      const std::vector<double> centroids = Centroids(points, k);
      EXPECT_TRUE(std::is_sorted(centroids.begin(), centroids.end()));
      const double best = BruteForceCost(points, k);
      EXPECT_NEAR(Cost(points, centroids), best, 1e-9 * (best + 1)) << "seed " << seed;
    }
  }
}

TEST(Kmeans1dTest, Run_ReusedSolverForgetsEarlierPoints) {
  Kmeans1d kmeans;
  WeightedPoints sorted;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Points points = RandomPoints(3 + seed * 7 % 12, seed, 0);
    sorted.Assign(points.values, points.weights);
    std::vector<double> centroids(3);
    kmeans.Run(sorted, absl::MakeSpan(centroids));
    EXPECT_EQ(centroids, Centroids(points, 3));
  }
}

TEST(Kmeans1dTest, Run_FewerDistinctValuesThanCentroidsIsExact) {
  const Points points = {{2, -1, 2, -1}, {1, 1, 3, 5}};
  EXPECT_EQ(Centroids(points, 4), (std::vector<double>{-1, 2, 2, 2}));
}

TEST(Kmeans1dTest, Run_NoPointsGivesZeros) {
  EXPECT_EQ(Centroids({}, 2), (std::vector<double>{0, 0}));
}

// The levels of the N(0, 1) quantizer: Max, "Quantizing for minimum distortion", 1960, table I.
TEST(Kmeans1dTest, Run_ApproachesLloydMaxOnManyGaussianPoints) {
  std::mt19937 random(5);
  Points points;
  for (int i = 0; i < 200000; ++i) {
    double sum = 0;
    for (int j = 0; j < 12; ++j) sum += static_cast<double>(random()) / 4294967296.0;
    // The sum of 12 uniforms is near Gaussian; its fourth moment is 2.9.
    points.values.push_back(sum - 6);
    points.weights.push_back(1);
  }
  const std::vector<double> centroids = Centroids(points, 4);
  EXPECT_NEAR(centroids[0], -1.510, 0.02);
  EXPECT_NEAR(centroids[1], -0.4528, 0.02);
  EXPECT_NEAR(centroids[2], 0.4528, 0.02);
  EXPECT_NEAR(centroids[3], 1.510, 0.02);
}

// Beyond kExactPoints cells start at quantiles; the loss against the optimum stays small.
TEST(Kmeans1dTest, Run_ManyPointsStayWithinOnePerMilleOfTheOptimum) {
  const size_t n = 2 * Kmeans1d::kExactPoints;
  const Points points = RandomPoints(n, 9, 0);
  const std::vector<double> centroids = Centroids(points, 16);
  // A lower bound on the optimum: the dynamic programme on both halves' own optima is not one, so
  // compare with the plain O(k n^2) programme.
  WeightedPoints sorted;
  sorted.Assign(points.values, points.weights);
  std::vector<double> previous(n + 1, std::numeric_limits<double>::infinity());
  previous[0] = 0;
  for (int k = 0; k < 16; ++k) {
    std::vector<double> current(n + 1, std::numeric_limits<double>::infinity());
    for (size_t j = 1; j <= n; ++j) {
      for (size_t i = 0; i < j; ++i) {
        current[j] = std::min(current[j], previous[i] + sorted.Cost(i, j));
      }
    }
    previous = current;
  }
  EXPECT_LT(Cost(points, centroids), previous[n] * 1.001);
}

}  // namespace
}  // namespace quantloom
