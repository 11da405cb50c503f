// Matrices for codec tests, and an encoded matrix opened again.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/codec/codec.h"
#include "core/codec/icquant_matrix.h"

namespace quantloom {

// N(0, 1) by the Box-Muller transform, so that values do not depend on the standard library.
inline std::vector<float> GaussianWeights(uint64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  const auto uniform = [&] { return (static_cast<double>(generator()) + 0.5) / 4294967296.0; };
  std::vector<float> weights(count);
  for (float& w : weights) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    w = static_cast<float>(radius * std::cos(6.283185307179586 * uniform()));
  }
  return weights;
}

inline std::vector<PlaneView> Views(const std::vector<Plane>& planes) {
  std::vector<PlaneView> views;
  for (const Plane& plane : planes) views.push_back(plane.view());
  return views;
}

inline const Plane& PlaneNamed(const EncodedMatrix& encoded, absl::string_view name) {
  return *std::find_if(encoded.planes.begin(), encoded.planes.end(),
                       [&](const Plane& plane) { return plane.name == name; });
}

// What Encode returned, opened as a reader would.
struct Stored {
  EncodedMatrix encoded;
  std::unique_ptr<PackedMatrix> matrix;

  const IcquantMatrix& icquant() const { return dynamic_cast<const IcquantMatrix&>(*matrix); }
  std::vector<float> Decode() const {
    std::vector<float> values(matrix->rows() * matrix->cols());
    matrix->DecodeTile(0, matrix->rows(), 0, matrix->cols(), values.data(), matrix->cols());
    return values;
  }
};

inline Stored EncodeAndOpen(absl::string_view recipe, absl::Span<const float> weights,
                            uint64_t rows, uint64_t cols, absl::Span<const float> importance = {},
                            int threads = 1) {
  Stored stored;
  ThreadTeam team(threads);
  auto codec = CreateCodec(recipe);
  EXPECT_TRUE(codec.ok()) << codec.status();
  if (!codec.ok()) std::abort();
  auto encoded = (*codec)->Encode(
      {.weights = weights, .rows = rows, .cols = cols, .importance = importance}, team);
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  if (!encoded.ok()) std::abort();
  stored.encoded = *std::move(encoded);
  auto matrix = OpenMatrix(stored.encoded.recipe, rows, cols, Views(stored.encoded.planes));
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  if (!matrix.ok()) std::abort();
  stored.matrix = *std::move(matrix);
  return stored;
}

inline double RelativeError(absl::Span<const float> weights, absl::Span<const float> decoded,
                            absl::Span<const float> importance, uint64_t cols) {
  double error = 0;
  double signal = 0;
  for (uint64_t i = 0; i < weights.size(); ++i) {
    const double weight = importance.empty() ? 1.0 : static_cast<double>(importance[i % cols]);
    const double w = static_cast<double>(weights[i]);
    const double miss = w - static_cast<double>(decoded[i]);
    error += weight * miss * miss;
    signal += weight * w * w;
  }
  return signal == 0 ? 0 : error / signal;
}

}  // namespace quantloom
