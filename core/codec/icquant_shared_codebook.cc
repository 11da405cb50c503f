#include "core/codec/icquant_shared_codebook.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/float16.h"

namespace quantloom {
namespace {

// Rounds of (row scales, centroids). Later ones change the error by less than 0.1 %.
constexpr int kRounds = 6;

// Points of one part of all rows, each divided by its row's root mean square and weighted by its
// square, so that the k-means cost is the error in the weights themselves.
void Pool(const std::vector<IcquantRow>& rows, int part, WeightedPoints& pool) {
  std::vector<double> values;
  std::vector<double> weights;
  for (const IcquantRow& row : rows) {
    const double rms = RowRms(row);
    if (rms == 0) continue;
    const WeightedPoints& points = part == 0 ? row.inliers() : row.outliers();
    for (size_t i = 0; i < points.size(); ++i) {
      values.push_back(points.value(i) / rms);
      weights.push_back(points.Weight(i, i + 1) * rms * rms);
    }
  }
  pool.Assign(values, weights);
}

IcquantSharedCodebook InitialCodebook(const std::vector<IcquantRow>& rows, uint32_t count) {
  WeightedPoints inliers;
  WeightedPoints outliers;
  Pool(rows, 0, inliers);
  Pool(rows, 1, outliers);
  Kmeans1d kmeans;
  std::array<std::array<double, 16>, 2> centroids{};
  kmeans.Run(inliers, {centroids[0].data(), count});
  kmeans.Run(outliers, {centroids[1].data(), count});
  double reach = 0;
  for (const auto& part : centroids) {
    for (uint32_t k = 0; k < count; ++k) reach = std::max(reach, std::fabs(part[k]));
  }
  IcquantSharedCodebook codebook{};
  codebook.step = reach / 127;
  for (size_t part = 0; part < 2; ++part) {
    for (uint32_t k = 0; k < count; ++k) {
      codebook.centroids[part][k] =
          reach == 0 ? int8_t{0} : RoundToGrid(centroids[part][k] / codebook.step);
    }
  }
  return codebook;
}

// The best real centroid of a cell over all rows is sum(scale w x) / sum(scale^2 w).
struct CentroidSums {
  double numerator[2][16] = {};
  double denominator[2][16] = {};
};

CentroidSums RowSums(const IcquantRow& row, const IcquantLevels& levels) {
  CentroidSums sums;
  const double scale = static_cast<double>(BFloat16ToFloat(levels.scale));
  for (size_t part = 0; part < 2; ++part) {
    const WeightedPoints& points = part == 0 ? row.inliers() : row.outliers();
    std::array<double, 16> wide;
    std::copy_n(levels.values[part].begin(), levels.count, wide.begin());
    ForEachCell(points, {wide.data(), levels.count}, [&](size_t k, size_t begin, size_t end) {
      sums.numerator[part][k] = scale * points.WeightedSum(begin, end);
      sums.denominator[part][k] = scale * scale * points.Weight(begin, end);
    });
  }
  return sums;
}

}  // namespace

IcquantSharedCodebook TrainSharedCodebook(
    const IcquantOptions& options, uint64_t row_count,
    absl::FunctionRef<void(uint64_t i, IcquantRow& row)> split, ThreadTeam& team) {
  std::vector<IcquantRow> rows(row_count);
  team.ParallelFor(row_count, 1, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) split(i, rows[i]);
  });
  const uint32_t count = 1u << options.bits;
  IcquantSharedCodebook codebook = InitialCodebook(rows, count);
  IcquantSharedCodebook best_codebook = codebook;
  double best = INFINITY;
  std::vector<CentroidSums> sums(row_count);
  std::vector<double> costs(row_count);
  for (int round = 0; round < kRounds; ++round) {
    team.ParallelFor(row_count, 4, [&](size_t begin, size_t end, int) {
      IcquantLevelFitter fitter(options, &codebook);
      IcquantLevels levels;
      for (size_t i = begin; i < end; ++i) {
        fitter.Fit(rows[i], levels);
        sums[i] = RowSums(rows[i], levels);
        costs[i] = LevelsCost(rows[i], levels);
      }
    });
    double cost = 0;
    for (const double row_cost : costs) cost += row_cost;
    if (!(cost < best)) break;
    best = cost;
    best_codebook = codebook;
    for (size_t part = 0; part < 2; ++part) {
      for (uint32_t k = 0; k < count; ++k) {
        double numerator = 0;
        double denominator = 0;
        for (const CentroidSums& row : sums) {
          numerator += row.numerator[part][k];
          denominator += row.denominator[part][k];
        }
        if (denominator > 0) codebook.centroids[part][k] = RoundToGrid(numerator / denominator);
      }
      std::sort(codebook.centroids[part].begin(), codebook.centroids[part].begin() + count);
    }
  }
  return best_codebook;
}

}  // namespace quantloom
