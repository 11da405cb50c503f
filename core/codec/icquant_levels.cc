#include "core/codec/icquant_levels.h"

#include <algorithm>
#include <cmath>

#include "absl/types/span.h"
#include "core/base/float16.h"

namespace quantloom {
namespace {

// Rounds of (nearest assignment, new centroids on the grid) after the first rounding. The first
// gains nearly all there is to gain.
constexpr int kGridRounds = 4;
// BF16 steps tried above the smallest that reaches the largest centroid: about 20 %.
constexpr int kStepCandidates = 32;
// Scales tried for the tensor form, as multiples of the expected one.
constexpr double kScanFrom = 0.7;
constexpr double kScanTo = 1.5;
constexpr double kScanRatio = 1.03;
constexpr uint16_t kSmallestStep = 0x0080;  // 2^-126: a scale is never subnormal

int Parts(const IcquantRow& row) { return row.outlier_columns().empty() ? 1 : 2; }

const WeightedPoints& PartPoints(const IcquantRow& row, int part) {
  return part == 0 ? row.inliers() : row.outliers();
}

double BFloat16Value(uint16_t bits) { return static_cast<double>(BFloat16ToFloat(bits)); }

uint16_t ToBFloat16(double x) { return FloatToBFloat16(static_cast<float>(x)); }

uint16_t ToHalf(double x) {
  const double limit = static_cast<double>(kMaxHalf);
  return FloatToHalf(static_cast<float>(std::clamp(x, -limit, limit)));
}

// Part's levels as doubles.
void Widen(const IcquantLevels& levels, int part, std::array<double, 256>& wide) {
  for (uint32_t k = 0; k < levels.count; ++k) {
    wide[k] = static_cast<double>(levels.values[static_cast<size_t>(part)][k]);
  }
}

// Calls visit(part, level, begin, end) for the cells of both parts.
template <typename Visit>
void ForEachRowCell(const IcquantRow& row, const IcquantLevels& levels, Visit visit) {
  std::array<double, 256> wide;
  for (int part = 0; part < Parts(row); ++part) {
    Widen(levels, part, wide);
    ForEachCell(PartPoints(row, part), {wide.data(), levels.count},
                [&](size_t k, size_t begin, size_t end) { visit(part, k, begin, end); });
  }
}

// Uniform levels over [lowest, highest]; a single one sits in the middle.
void UniformLevels(double lowest, double highest, absl::Span<double> levels) {
  if (levels.size() == 1) {
    levels[0] = (lowest + highest) / 2;
    return;
  }
  const double step = (highest - lowest) / static_cast<double>(levels.size() - 1);
  for (size_t i = 0; i < levels.size(); ++i) levels[i] = lowest + step * static_cast<double>(i);
}

// Index of the first outlier of the positive tail: outliers below zero form the negative one.
size_t TailSplit(const WeightedPoints& outliers) {
  size_t split = 0;
  while (split < outliers.size() && outliers.value(split) < 0) ++split;
  return split;
}

// RTN's levels (paper, section 4.1): the inliers' range in equal steps; the outliers' levels half
// on each tail.
void UniformCentroids(const IcquantRow& row, uint32_t count, IcquantCentroids& centroids) {
  const WeightedPoints& inliers = row.inliers();
  centroids.parts[0].fill(0);
  centroids.parts[1].fill(0);
  if (!inliers.empty()) {
    UniformLevels(inliers.front(), inliers.back(), {centroids.parts[0].data(), count});
  }
  const WeightedPoints& outliers = row.outliers();
  const size_t split = TailSplit(outliers);
  const uint32_t half = count / 2;
  if (split > 0) {
    UniformLevels(outliers.front(), outliers.value(split - 1), {centroids.parts[1].data(), half});
  }
  if (split < outliers.size()) {
    UniformLevels(outliers.value(split), outliers.back(), {centroids.parts[1].data() + half, half});
  }
}

// --- Form range: levels are lowest + step i in fp16 parameters.

// Writes `count` levels over [lowest, highest] to values and their parameters to range[0..1].
// Levels of a negative tail stay at most `limit`.
void FitUniformRange(double lowest, double highest, uint32_t count, float limit, uint16_t* range,
                     float* values) {
  range[0] = ToHalf(count == 1 ? (lowest + highest) / 2 : lowest);
  const float first = HalfToFloat(range[0]);
  const double span = std::max(highest - static_cast<double>(first), 0.0);
  range[1] = count == 1 ? uint16_t{0} : ToHalf(span / static_cast<double>(count - 1));
  const float last = static_cast<float>(count - 1);
  while (range[1] != 0 && first + HalfToFloat(range[1]) * last > limit) --range[1];
  const float step = HalfToFloat(range[1]);
  for (uint32_t i = 0; i < count; ++i) values[i] = first + step * static_cast<float>(i);
}

void FitRange(const IcquantRow& row, uint32_t count, IcquantLevels& levels) {
  levels.count = count;
  levels.ranges.fill(0);
  levels.values[0].fill(0);
  levels.values[1].fill(0);
  constexpr float kNoLimit = INFINITY;
  const WeightedPoints& inliers = row.inliers();
  if (!inliers.empty()) {
    FitUniformRange(inliers.front(), inliers.back(), count, kNoLimit, levels.ranges.data(),
                    levels.values[0].data());
  }
  const WeightedPoints& outliers = row.outliers();
  const size_t split = TailSplit(outliers);
  const uint32_t half = count / 2;
  if (split > 0) {
    FitUniformRange(outliers.front(), outliers.value(split - 1), half, 0.0f,
                    levels.ranges.data() + 2, levels.values[1].data());
  }
  if (split < outliers.size()) {
    FitUniformRange(outliers.value(split), outliers.back(), half, kNoLimit,
                    levels.ranges.data() + 4, levels.values[1].data() + half);
  }
}

// --- Integer forms.

// Sets the decoded values from scale, offset and centroids.
void DecodeCentroids(IcquantLevels& levels) {
  const float scale = BFloat16ToFloat(levels.scale);
  const float offset = BFloat16ToFloat(levels.offset);
  for (size_t part = 0; part < 2; ++part) {
    for (uint32_t k = 0; k < levels.count; ++k) {
      levels.values[part][k] = scale * static_cast<float>(levels.centroids[part][k]) + offset;
    }
  }
}

// n = 8: levels scale * q + offset for all q.
void DecodeBytes(IcquantLevels& levels) {
  const float scale = BFloat16ToFloat(levels.scale);
  const float offset = BFloat16ToFloat(levels.offset);
  levels.count = 255;
  for (uint32_t k = 0; k < levels.count; ++k) {
    const int q = static_cast<int>(k) - 127;
    levels.values[0][k] = scale * static_cast<float>(q) + offset;
  }
}

void FitBytes(const IcquantRow& row, bool with_offset, IcquantLevels& levels) {
  const double lowest = row.inliers().front();
  const double highest = row.inliers().back();
  levels.offset = with_offset ? ToBFloat16((lowest + highest) / 2) : uint16_t{0};
  const double offset = BFloat16Value(levels.offset);
  const double reach = std::max(std::fabs(lowest - offset), std::fabs(highest - offset));
  if (reach == 0) {
    levels.scale = 0;
    DecodeBytes(levels);
    return;
  }
  const uint16_t nearest = std::max(ToBFloat16(reach / 127), kSmallestStep);
  uint16_t best_scale = nearest;
  double best = INFINITY;
  for (const int step : {-1, 0, 1}) {
    levels.scale = std::max(static_cast<uint16_t>(nearest + step), kSmallestStep);
    DecodeBytes(levels);
    const double cost = LevelsCost(row, levels);
    if (cost < best) {
      best = cost;
      best_scale = levels.scale;
    }
  }
  levels.scale = best_scale;
  DecodeBytes(levels);
}

}  // namespace

double LevelsCost(const IcquantRow& row, const IcquantLevels& levels) {
  std::array<double, 256> wide;
  double cost = 0;
  for (int part = 0; part < Parts(row); ++part) {
    Widen(levels, part, wide);
    cost += NearestLevelCost(PartPoints(row, part), {wide.data(), levels.count});
  }
  return cost;
}

int8_t RoundToGrid(double x) {
  return static_cast<int8_t>(std::clamp(std::round(x), -127.0, 127.0));
}

double RowRms(const IcquantRow& row) {
  const double weight = row.inliers().TotalWeight() + row.outliers().TotalWeight();
  return std::sqrt((row.inliers().WeightedSquares() + row.outliers().WeightedSquares()) / weight);
}

uint16_t BestGridStep(const IcquantRow& row, const IcquantCentroids& centroids, uint32_t count,
                      double offset) {
  std::array<double, 32> values;
  std::array<double, 32> weights{};
  size_t used = 0;
  double reach = 0;
  for (int part = 0; part < Parts(row); ++part) {
    const absl::Span<const double> levels(centroids.parts[static_cast<size_t>(part)].data(), count);
    ForEachCell(PartPoints(row, part), levels, [&](size_t k, size_t begin, size_t end) {
      values[used] = levels[k] - offset;
      weights[used++] = PartPoints(row, part).Weight(begin, end);
      reach = std::max(reach, std::fabs(levels[k] - offset));
    });
  }
  if (reach == 0) return 0;
  const uint16_t nearest = std::max(ToBFloat16(reach / 127), kSmallestStep);
  const uint16_t first = std::max(static_cast<uint16_t>(nearest - 1), kSmallestStep);
  uint16_t best_step = first;
  double best = INFINITY;
  for (uint16_t step = first; step < first + kStepCandidates; ++step) {
    const double g = BFloat16Value(step);
    double cost = 0;
    for (size_t i = 0; i < used; ++i) {
      const double miss = values[i] - g * static_cast<double>(RoundToGrid(values[i] / g));
      cost += weights[i] * miss * miss;
    }
    if (cost < best) {
      best = cost;
      best_step = step;
    }
  }
  return best_step;
}

void IcquantLevelFitter::RealCentroids(const IcquantRow& row, IcquantCentroids& centroids) {
  const uint32_t count = 1u << options_.bits;
  if (options_.inner == IcquantInner::kRtn) {
    UniformCentroids(row, count, centroids);
    return;
  }
  kmeans_.Run(row.inliers(), {centroids.parts[0].data(), count});
  kmeans_.Run(row.outliers(), {centroids.parts[1].data(), count});
}

void IcquantLevelFitter::FitHalf(const IcquantRow& row, IcquantLevels& levels) {
  IcquantCentroids centroids;
  RealCentroids(row, centroids);
  levels.count = 1u << options_.bits;
  for (size_t part = 0; part < 2; ++part) {
    for (uint32_t k = 0; k < levels.count; ++k) {
      levels.halves[part][k] = ToHalf(centroids.parts[part][k]);
      levels.values[part][k] = HalfToFloat(levels.halves[part][k]);
    }
  }
}

void IcquantLevelFitter::FitInt8(const IcquantRow& row, IcquantLevels& levels) {
  IcquantCentroids centroids;
  RealCentroids(row, centroids);
  const uint32_t count = 1u << options_.bits;
  levels.count = count;
  levels.offset = 0;
  if (options_.offset == IcquantOffset::kRow) {
    double lowest = centroids.parts[0][0];
    double highest = centroids.parts[0][count - 1];
    if (Parts(row) == 2) {
      lowest = std::min(lowest, centroids.parts[1][0]);
      highest = std::max(highest, centroids.parts[1][count - 1]);
    }
    levels.offset = ToBFloat16((lowest + highest) / 2);
  }
  const double offset = BFloat16Value(levels.offset);
  levels.scale = BestGridStep(row, centroids, count, offset);
  const double g = BFloat16Value(levels.scale);
  for (size_t part = 0; part < 2; ++part) {
    for (uint32_t k = 0; k < count; ++k) {
      levels.centroids[part][k] =
          g == 0 ? int8_t{0} : RoundToGrid((centroids.parts[part][k] - offset) / g);
    }
  }
  DecodeCentroids(levels);
  if (options_.inner == IcquantInner::kRtn || g == 0) return;

  double cost = LevelsCost(row, levels);
  for (int round = 0; round < kGridRounds; ++round) {
    IcquantLevels next = levels;
    ForEachRowCell(row, levels, [&](int part, size_t k, size_t begin, size_t end) {
      next.centroids[static_cast<size_t>(part)][k] =
          RoundToGrid((PartPoints(row, part).Mean(begin, end) - offset) / g);
    });
    DecodeCentroids(next);
    const double next_cost = LevelsCost(row, next);
    if (!(next_cost < cost)) break;
    cost = next_cost;
    levels = next;
  }
}

void IcquantLevelFitter::FitShared(const IcquantRow& row, IcquantLevels& levels) const {
  levels.count = 1u << options_.bits;
  levels.offset = 0;
  levels.scale = 0;
  levels.centroids = shared_->centroids;
  const double start = RowRms(row) * shared_->step;
  if (start == 0) {
    DecodeCentroids(levels);
    return;
  }
  // The cost has many minima in the scale, so a scan comes first; then partition and scale (a ratio
  // of sums, given the partition) alternate.
  uint16_t best_scale = 0;
  double best = INFINITY;
  const auto try_scale = [&](double scale) {
    levels.scale = std::max(ToBFloat16(scale), kSmallestStep);
    DecodeCentroids(levels);
    const double cost = LevelsCost(row, levels);
    if (!(cost < best)) return false;
    best = cost;
    best_scale = levels.scale;
    return true;
  };
  double scanned = start * kScanFrom;
  while (scanned < start * kScanTo) {
    try_scale(scanned);
    scanned *= kScanRatio;
  }
  for (int round = 0; round < kGridRounds; ++round) {
    levels.scale = best_scale;
    DecodeCentroids(levels);
    double wxq = 0;
    double wqq = 0;
    ForEachRowCell(row, levels, [&](int part, size_t k, size_t begin, size_t end) {
      const WeightedPoints& points = PartPoints(row, part);
      const double q = static_cast<double>(levels.centroids[static_cast<size_t>(part)][k]);
      wxq += q * points.WeightedSum(begin, end);
      wqq += q * q * points.Weight(begin, end);
    });
    if (!(wxq > 0) || !try_scale(wxq / wqq)) break;
  }
  levels.scale = best_scale;
  DecodeCentroids(levels);
}

void IcquantLevelFitter::Fit(const IcquantRow& row, IcquantLevels& levels) {
  switch (options_.codebook) {
    case IcquantCodebook::kFp16:
      return FitHalf(row, levels);
    case IcquantCodebook::kInt8:
      if (options_.bits == 8) {
        return FitBytes(row, options_.offset == IcquantOffset::kRow, levels);
      }
      return FitInt8(row, levels);
    case IcquantCodebook::kTensor:
      return FitShared(row, levels);
    case IcquantCodebook::kRange:
    case IcquantCodebook::kAuto:  // never: options are resolved
      return FitRange(row, 1u << options_.bits, levels);
  }
}

}  // namespace quantloom
