// Stored matrices of random weights, made in seconds whatever the codec: for timing, not for
// quality.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/parallel.h"
#include "core/codec/codec.h"

namespace quantloom {

// Gaussian weights with variance 1 / cols, by one recipe.
//
// Codes of QTIP and QuIP# are random bits, all of which are valid, under the planes and the recipe
// that a small matrix got from the encoder, whose search would take hours. Other codecs encode.
class RandomWeights {
 public:
  // INVALID_ARGUMENT for a recipe that is wrong.
  static absl::StatusOr<std::unique_ptr<RandomWeights>> Create(absl::string_view recipe);

  // The canonical recipe, as it was asked for.
  std::string recipe() const { return codec_->recipe(); }
  // A matrix of this shape, made once. Rows and columns are multiples of 16 where codes are random
  // bits. The encoder's errors.
  absl::StatusOr<std::shared_ptr<const EncodedMatrix>> Make(uint64_t rows, uint64_t cols,
                                                            ThreadTeam& team);

 private:
  explicit RandomWeights(std::unique_ptr<Codec> codec) : codec_(std::move(codec)) {}
  absl::StatusOr<EncodedMatrix> Encode(uint64_t rows, uint64_t cols, ThreadTeam& team) const;
  absl::StatusOr<EncodedMatrix> RandomTiles(uint64_t rows, uint64_t cols, ThreadTeam& team) const;

  std::unique_ptr<Codec> codec_;
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<const EncodedMatrix>> made_;
};

}  // namespace quantloom
