#include "core/codec/icquant_tiles.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/base/status.h"
#include "core/codec/e8p_tiles.h"
#include "core/codec/tile_code.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis_tiles.h"

namespace quantloom {
namespace {

constexpr int kMaxOutlierBits = 4;

struct IcquantTileOptions {
  Recipe own;  // codec, inner and the tile code's options
  std::unique_ptr<const TileCode> code;
  TileOptions tiles;

  static absl::StatusOr<IcquantTileOptions> FromRecipe(Recipe recipe) {
    IcquantTileOptions options;
    // The paper's setting: outliers instead of incoherence, rows scaled apart.
    TileOptions defaults;
    defaults.incoherence.kind = IncoherenceKind::kNone;
    defaults.scales = TileScales::kRow;
    defaults.outliers.share = 0.05;
    QL_ASSIGN_OR_RETURN(options.tiles, TileOptions::TakeFrom(recipe, defaults));
    TileOutlierOptions& outliers = options.tiles.outliers;
    QL_RETURN_IF_ERROR(TakeOutliers(recipe, outliers.share, outliers.index_bits));
    options.own = {.codec = recipe.codec, .options = {{"inner", recipe.options["inner"]}}};
    const bool trellis = recipe.options["inner"] == "trellis";
    recipe.options.erase("inner");
    if (trellis) {
      QL_ASSIGN_OR_RETURN(const TrellisFormat format, TakeTrellisFormat(recipe));
      AddTrellisFormat(format, options.own);
      options.code = MakeTrellisTiles(format);
      outliers.bits = std::min(kMaxOutlierBits, (format.half_bits() + 1) / 2);
    } else {
      QL_ASSIGN_OR_RETURN(const E8pRate rate, TakeE8pRate(recipe));
      AddE8pRate(rate, options.own);
      options.code = MakeE8pTiles(rate);
      outliers.bits = rate.bits;
    }
    QL_RETURN_IF_ERROR(CheckAllTaken(
        recipe, trellis ? "bits, code, hadamard, incoherence, index_bits, inner, outliers, "
                          "rounding, scales with inner=trellis"
                        : "bits, hadamard, incoherence, index_bits, inner, outliers, rounding, "
                          "scales with inner=e8p"));
    return options;
  }
};

}  // namespace

bool IsTileInner(const Recipe& recipe) {
  const auto it = recipe.options.find("inner");
  return it != recipe.options.end() && (it->second == "trellis" || it->second == "e8p");
}

absl::StatusOr<std::unique_ptr<Codec>> CreateIcquantTiles(const Recipe& recipe) {
  QL_ASSIGN_OR_RETURN(IcquantTileOptions options, IcquantTileOptions::FromRecipe(recipe));
  return MakeTileCodec(std::move(options.code), options.tiles, std::move(options.own));
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> OpenIcquantTiles(const Recipe& recipe, uint64_t rows,
                                                               uint64_t cols,
                                                               absl::Span<const PlaneView> planes) {
  QL_ASSIGN_OR_RETURN(IcquantTileOptions options, IcquantTileOptions::FromRecipe(recipe));
  return OpenTiles(std::move(options.code), options.tiles, recipe, rows, cols, planes);
}

}  // namespace quantloom
