// QuIP# (arXiv 2402.04396): E8P lattice codebooks on an incoherent matrix, 8 weights of a row at a
// time. e8p.h is the quantizer, tile_code.h the rest; docs/tile-codecs.md the bytes.
//
// A tile is 1 x 8: the E8P code (16 bits, little-endian), then at 3 bits the second stage's 8 bits
// and at 4 bits its 16.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/e8p.h"
#include "core/codec/registry.h"
#include "core/codec/tile_code.h"

namespace quantloom {
namespace {

class E8pTiles final : public TileCode {
 public:
  explicit E8pTiles(const E8pRate& rate) : rate_(rate) {}

  uint64_t tile_rows() const override { return 1; }
  uint64_t tile_cols() const override { return kE8Dimensions; }
  uint64_t tile_bytes() const override { return static_cast<uint64_t>(rate_.bits); }
  float input_rms(bool feedback) const override {
    return feedback ? kE8pLdlqInputRms : rate_.input_rms;
  }

  void Encode(const float* targets, uint64_t columns, uint64_t rows, uint8_t* codes,
              uint64_t stride, float* decoded, ThreadTeam& team) const override {
    std::vector<uint16_t> first(rows), second(rate_.bits == 2 ? 0 : rows);
    uint16_t* residual = second.empty() ? nullptr : second.data();
    if (columns == kE8Dimensions) {
      EncodeE8p(rate_, targets, nullptr, rows, first.data(), residual, decoded, team);
    } else {
      // Coordinates past the last column have zero targets of weight zero.
      std::vector<float> completed(kE8Dimensions * rows), weights(kE8Dimensions * rows);
      std::copy_n(targets, columns * rows, completed.begin());
      std::fill_n(weights.begin(), columns * rows, 1.0f);
      std::vector<float> values(kE8Dimensions * rows);
      EncodeE8p(rate_, completed.data(), weights.data(), rows, first.data(), residual,
                values.data(), team);
      std::copy_n(values.begin(), columns * rows, decoded);
    }
    for (uint64_t r = 0; r < rows; ++r, codes += stride) {
      codes[0] = static_cast<uint8_t>(first[r]);
      codes[1] = static_cast<uint8_t>(first[r] >> 8);
      if (rate_.bits > 2) codes[2] = static_cast<uint8_t>(second[r]);
      if (rate_.bits > 3) codes[3] = static_cast<uint8_t>(second[r] >> 8);
    }
  }

  void Decode(const uint8_t* code, float* values) const override {
    const auto first = static_cast<uint16_t>(code[0] | code[1] << 8);
    uint16_t second = 0;
    if (rate_.bits > 2) second = code[2];
    if (rate_.bits > 3) second = static_cast<uint16_t>(second | code[3] << 8);
    DecodeE8pVector(rate_, first, second, values);
  }

 private:
  E8pRate rate_;
};

struct QuipOptions {
  E8pRate rate;
  TileOptions tiles;

  static absl::StatusOr<QuipOptions> FromRecipe(Recipe recipe) {
    QL_ASSIGN_OR_RETURN(const TileOptions tiles, TileOptions::TakeFrom(recipe));
    int bits = 2;
    for (const auto& [key, value] : recipe.options) {
      if (key != "bits") {
        return absl::InvalidArgumentError(absl::StrCat(
            "quip: unknown key '", key, "': allowed are bits, hadamard, incoherence, rounding"));
      }
      if (!absl::SimpleAtoi(value, &bits) || bits < 2 || bits > 4) {
        return absl::InvalidArgumentError(
            absl::StrCat("quip: bits=", value, ": allowed are 2, 3, 4"));
      }
    }
    QL_ASSIGN_OR_RETURN(const E8pRate rate, E8pRateOfBits(bits));
    return QuipOptions{rate, tiles};
  }

  // Without the shared options.
  Recipe OwnRecipe() const {
    return {.codec = "quip", .options = {{"bits", absl::StrCat(rate.bits)}}};
  }
};

absl::StatusOr<std::unique_ptr<Codec>> Create(const Recipe& recipe) {
  QL_ASSIGN_OR_RETURN(const QuipOptions options, QuipOptions::FromRecipe(recipe));
  return MakeTileCodec(std::make_unique<E8pTiles>(options.rate), options.tiles,
                       options.OwnRecipe());
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Open(const Recipe& recipe, uint64_t rows,
                                                   uint64_t cols,
                                                   absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(const QuipOptions options, QuipOptions::FromRecipe(recipe));
  return OpenTiles(std::make_unique<E8pTiles>(options.rate), options.tiles, recipe, rows, cols,
                   planes);
}

}  // namespace

CodecRegistration QuipRegistration() {
  CodecRegistration registration{
      .info = {.name = "quip",
               .summary = "E8P lattice codebooks, 8 weights at a time, on an incoherent matrix "
                          "(QuIP#, arXiv 2402.04396)",
               .options = {{"bits", "bits per weight: 2, 3 or 4; default 2"}}},
      .create = Create,
      .open = Open};
  for (auto& option : TileOptionDescriptions()) registration.info.options.push_back(option);
  return registration;
}

}  // namespace quantloom
