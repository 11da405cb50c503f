// Fitting the levels of a row's two parts in each codebook form. What is stored is what is fitted:
// centroids are rounded to the form's grid, and the partition and the centroids are then improved
// on that grid.
#pragma once

#include <array>
#include <cstdint>

#include "core/codec/icquant_matrix.h"
#include "core/codec/icquant_row.h"
#include "core/codec/kmeans1d.h"

namespace quantloom {

// Levels of both parts as real numbers, ascending; a part uses the first 2^n.
struct IcquantCentroids {
  std::array<std::array<double, 16>, 2> parts;
};

// The one codebook of the tensor form: integer centroids of both parts, ascending.
struct IcquantSharedCodebook {
  std::array<std::array<int8_t, 16>, 2> centroids;
  double step = 0;  // a row's scale is about step * its root mean square
};

// The largest magnitude that fp16 holds: matrices beyond it need an integer form.
inline constexpr float kMaxHalf = 65504.0f;

// Fits rows under one set of resolved options. Holds scratch: one per thread.
class IcquantLevelFitter {
 public:
  // `shared` is read by the tensor form alone and must outlive the fitter.
  IcquantLevelFitter(const IcquantOptions& options, const IcquantSharedCodebook* shared)
      : options_(options), shared_(shared) {}

  void Fit(const IcquantRow& row, IcquantLevels& levels);

 private:
  void RealCentroids(const IcquantRow& row, IcquantCentroids& centroids);
  void FitHalf(const IcquantRow& row, IcquantLevels& levels);
  void FitInt8(const IcquantRow& row, IcquantLevels& levels);
  void FitShared(const IcquantRow& row, IcquantLevels& levels) const;

  IcquantOptions options_;
  const IcquantSharedCodebook* shared_;
  Kmeans1d kmeans_;
};

// Weighted squared error of a row under levels, each point at its nearest level.
double LevelsCost(const IcquantRow& row, const IcquantLevels& levels);

// The BF16 step g for which rounding (centroid - offset) to multiples of g, 127 at most, adds least
// error to the cells around the first `count` centroids of each part; tried from
// max|centroid - offset| / 127 up. 0 when all centroids equal the offset.
uint16_t BestGridStep(const IcquantRow& row, const IcquantCentroids& centroids, uint32_t count,
                      double offset);

// The nearest integer, halves away from zero, limited to -127..127.
int8_t RoundToGrid(double x);

// The root mean square of the row's points under their weights.
double RowRms(const IcquantRow& row);

}  // namespace quantloom
