// QTIP (arXiv 2406.11235): trellis-coded quantization of an incoherent matrix in tiles of 16 x 16
// weights. trellis.h is the quantizer of a tile, tile_code.h the rest; docs/tile-codecs.md the
// bytes.
#include <memory>
#include <utility>

#include "core/base/status.h"
#include "core/codec/registry.h"
#include "core/codec/tile_code.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis_tiles.h"

namespace quantloom {
namespace {

struct QtipOptions {
  TrellisFormat format;
  TileOptions tiles;

  static absl::StatusOr<QtipOptions> FromRecipe(Recipe recipe) {
    QL_ASSIGN_OR_RETURN(const TileOptions tiles, TileOptions::TakeFrom(recipe, {}));
    QL_ASSIGN_OR_RETURN(const TrellisFormat format, TakeTrellisFormat(recipe));
    QL_RETURN_IF_ERROR(
        CheckAllTaken(recipe, "bits, code, hadamard, incoherence, rounding, scales"));
    return QtipOptions{format, tiles};
  }
};

absl::StatusOr<std::unique_ptr<Codec>> Create(const Recipe& recipe) {
  QL_ASSIGN_OR_RETURN(const QtipOptions options, QtipOptions::FromRecipe(recipe));
  Recipe own{.codec = recipe.codec, .options = {}};
  AddTrellisFormat(options.format, own);
  return MakeTileCodec(MakeTrellisTiles(options.format), options.tiles, std::move(own));
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> Open(const Recipe& recipe, uint64_t rows,
                                                   uint64_t cols,
                                                   absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(const QtipOptions options, QtipOptions::FromRecipe(recipe));
  return OpenTiles(MakeTrellisTiles(options.format), options.tiles, recipe, rows, cols, planes);
}

}  // namespace

CodecRegistration QtipRegistration() {
  CodecRegistration registration{
      .info = {.name = "qtip",
               .summary = "trellis-coded quantization of 16 x 16 tiles of an incoherent matrix "
                          "(arXiv 2406.11235)",
               .options = TrellisOptionDescriptions()},
      .create = Create,
      .open = Open};
  for (auto& option : TileOptionDescriptions()) registration.info.options.push_back(option);
  return registration;
}

}  // namespace quantloom
