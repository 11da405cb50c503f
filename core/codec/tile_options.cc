#include "core/base/status.h"
#include "core/codec/tile_code.h"

namespace quantloom {
namespace {

constexpr char kRounding[] = "rounding";
constexpr char kScales[] = "scales";
constexpr char kOutliers[] = "outliers";

// One spelling per value, in the enum's order.
constexpr absl::string_view kScaleNames[] = {"tensor", "row"};

}  // namespace

absl::StatusOr<TileOptions> TileOptions::TakeFrom(Recipe& recipe, TileOptions defaults) {
  TileOptions options = defaults;
  QL_ASSIGN_OR_RETURN(options.incoherence, TakeIncoherence(recipe, defaults.incoherence.kind));
  QL_ASSIGN_OR_RETURN(options.ldlq, TakeLdlq(recipe, /*otherwise=*/true));
  QL_ASSIGN_OR_RETURN(const size_t scales,
                      TakeName(recipe, kScales, kScaleNames, static_cast<size_t>(defaults.scales)));
  options.scales = static_cast<TileScales>(scales);
  return options;
}

void TileOptions::AddTo(Recipe& recipe, bool resolved) const {
  AddIncoherence(incoherence, resolved, recipe);
  recipe.options[kRounding] = RoundingName(ldlq);
  recipe.options[kScales] = std::string(kScaleNames[static_cast<size_t>(scales)]);
  if (recipe.options.contains("inner")) {
    recipe.options[kOutliers] = ShortestDecimal(outliers.share);
  }
  AddIndexBits(outliers.share, outliers.index_bits, recipe);
}

std::vector<std::pair<std::string, std::string>> TileOptionDescriptions() {
  return {
      IncoherenceDescription("two-sided"),
      HadamardDescription(),
      {kRounding, "ldlq (feedback of rounding errors, with calibration) or nearest; default ldlq"},
      {kScales, "one scale for the tensor, or one per row (16 bits a row); default tensor"}};
}

}  // namespace quantloom
