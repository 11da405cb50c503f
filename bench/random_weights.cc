#include "bench/random_weights.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/plane_set.h"

namespace quantloom {
namespace {

// Rows are pieces of one sequence of Gaussian numbers, each from a place of its own.
std::vector<float> GaussianRows(uint64_t rows, uint64_t cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(cols)));
  std::vector<float> sequence((size_t{1} << 20) + cols);
  for (float& value : sequence) value = normal(random);
  std::vector<float> weights(rows * cols);
  for (uint64_t row = 0; row < rows; ++row) {
    const auto begin = sequence.begin() + random() % (size_t{1} << 20);
    std::copy(begin, begin + static_cast<int64_t>(cols),
              weights.begin() + static_cast<int64_t>(row * cols));
  }
  return weights;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RandomWeights>> RandomWeights::Create(absl::string_view recipe) {
  QL_ASSIGN_OR_RETURN(auto codec, CreateCodec(recipe));
  return std::unique_ptr<RandomWeights>(new RandomWeights(std::move(codec)));
}

absl::StatusOr<std::shared_ptr<const EncodedMatrix>> RandomWeights::Make(uint64_t rows,
                                                                         uint64_t cols,
                                                                         ThreadTeam& team) {
  std::shared_ptr<const EncodedMatrix>& made = made_[{rows, cols}];
  if (made == nullptr) {
    const bool tiles = absl::StartsWith(recipe(), "qtip:") || absl::StartsWith(recipe(), "quip:");
    QL_ASSIGN_OR_RETURN(EncodedMatrix matrix,
                        tiles ? RandomTiles(rows, cols, team) : Encode(rows, cols, team));
    made = std::make_shared<const EncodedMatrix>(std::move(matrix));
  }
  return made;
}

absl::StatusOr<EncodedMatrix> RandomWeights::Encode(uint64_t rows, uint64_t cols,
                                                    ThreadTeam& team) const {
  const std::vector<float> weights = GaussianRows(rows, cols);
  return codec_->Encode({.weights = weights, .rows = rows, .cols = cols}, team);
}

absl::StatusOr<EncodedMatrix> RandomWeights::RandomTiles(uint64_t rows, uint64_t cols,
                                                         ThreadTeam& team) const {
  constexpr uint64_t kSide = 16;  // of QTIP's tiles; QuIP#'s are 1 x 8
  if (rows % kSide != 0 || cols % kSide != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape [", rows, ", ", cols, "]: not multiples of ", kSide));
  }
  // 16 tiles, so that codes need no padding.
  QL_ASSIGN_OR_RETURN(EncodedMatrix matrix, Encode(kSide, kSide * 16, team));
  std::mt19937 random(1);
  for (Plane& plane : matrix.planes) {
    if (plane.name != "codes") {
      if (plane.shape != std::vector<uint64_t>{kPlaneAlignment / sizeof(float)}) {
        return absl::UnimplementedError(
            absl::StrCat(matrix.recipe, ": only one scale a tensor can be made up"));
      }
      continue;
    }
    const uint64_t bytes = plane.bytes.size() * (rows / kSide) * (cols / kSide) / 16;
    plane = NewPlane(plane.name, plane.dtype, bytes);
    for (uint64_t i = 0; i < bytes; ++i) plane.bytes[i] = static_cast<uint8_t>(random() >> 24);
  }
  return matrix;
}

}  // namespace quantloom
