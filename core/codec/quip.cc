// QuIP# (arXiv 2402.04396): E8P lattice codebooks on an incoherent matrix, 8 weights of a row at a
// time. e8p.h is the quantizer, tile_code.h the rest; docs/tile-codecs.md the bytes.
#include <memory>
#include <utility>

#include "core/base/status.h"
#include "core/codec/e8p_tiles.h"
#include "core/codec/registry.h"
#include "core/codec/tile_code.h"
#include "core/codec/tile_matrix.h"

namespace quantloom {
namespace {

struct QuipOptions {
  E8pRate rate;
  TileOptions tiles;

  static absl::StatusOr<QuipOptions> FromRecipe(Recipe recipe) {
    QL_ASSIGN_OR_RETURN(const TileOptions tiles, TileOptions::TakeFrom(recipe, {}));
    QL_ASSIGN_OR_RETURN(const E8pRate rate, TakeE8pRate(recipe));
    QL_RETURN_IF_ERROR(CheckAllTaken(recipe, "bits, hadamard, incoherence, rounding, scales"));
    return QuipOptions{rate, tiles};
  }
};

absl::StatusOr<std::unique_ptr<Codec>> Create(const Recipe& recipe) {
  QL_ASSIGN_OR_RETURN(const QuipOptions options, QuipOptions::FromRecipe(recipe));
  Recipe own{.codec = recipe.codec, .options = {}};
  AddE8pRate(options.rate, own);
  return MakeTileCodec(MakeE8pTiles(options.rate), options.tiles, std::move(own));
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Open(const Recipe& recipe, uint64_t rows,
                                                   uint64_t cols,
                                                   absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(const QuipOptions options, QuipOptions::FromRecipe(recipe));
  return OpenTiles(MakeE8pTiles(options.rate), options.tiles, recipe, rows, cols, planes);
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
