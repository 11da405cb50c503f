#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/tile_code.h"

namespace quantloom {
namespace {

constexpr char kRounding[] = "rounding";
constexpr char kScales[] = "scales";
constexpr char kOutliers[] = "outliers";
constexpr char kIndexBits[] = "index_bits";

// One spelling per value, in the enums' order.
constexpr absl::string_view kRoundingNames[] = {"nearest", "ldlq"};
constexpr absl::string_view kScaleNames[] = {"tensor", "row"};

constexpr double kMaxOutliers = 0.25;

}  // namespace

absl::StatusOr<TileOptions> TileOptions::TakeFrom(Recipe& recipe, TileOptions defaults) {
  TileOptions options = defaults;
  QL_ASSIGN_OR_RETURN(options.incoherence, TakeIncoherence(recipe, defaults.incoherence.kind));
  QL_ASSIGN_OR_RETURN(const size_t rounding, TakeName(recipe, kRounding, kRoundingNames, 1));
  QL_ASSIGN_OR_RETURN(const size_t scales,
                      TakeName(recipe, kScales, kScaleNames, static_cast<size_t>(defaults.scales)));
  options.ldlq = rounding == 1;
  options.scales = static_cast<TileScales>(scales);
  return options;
}

absl::Status TakeOutlierOptions(Recipe& recipe, TileOutlierOptions& outliers) {
  if (const auto it = recipe.options.find(kOutliers); it != recipe.options.end()) {
    if (!absl::SimpleAtod(it->second, &outliers.share) ||
        !(outliers.share >= 0 && outliers.share <= kMaxOutliers)) {
      return absl::InvalidArgumentError(
          absl::StrCat(recipe.codec, ": outliers=", it->second, ": allowed are 0 to 0.25"));
    }
    recipe.options.erase(it);
  }
  if (const auto it = recipe.options.find(kIndexBits); it != recipe.options.end()) {
    if (it->second != "auto" &&
        (!absl::SimpleAtoi(it->second, &outliers.index_bits) ||
         outliers.index_bits < kMinIndexBits || outliers.index_bits > kMaxIndexBits)) {
      return absl::InvalidArgumentError(
          absl::StrCat(recipe.codec, ": index_bits=", it->second, ": allowed are auto, 2 to 8"));
    }
    recipe.options.erase(it);
  }
  if (outliers.index_bits != 0 && outliers.share == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        recipe.codec, ": index_bits=", outliers.index_bits, ": there are no outliers"));
  }
  return absl::OkStatus();
}

void TileOptions::AddTo(Recipe& recipe, bool resolved) const {
  AddIncoherence(incoherence, resolved, recipe);
  recipe.options[kRounding] = std::string(kRoundingNames[ldlq ? 1 : 0]);
  recipe.options[kScales] = std::string(kScaleNames[static_cast<size_t>(scales)]);
  if (recipe.options.contains("inner")) {
    recipe.options[kOutliers] = ShortestDecimal(outliers.share);
  }
  if (outliers.share > 0) {
    recipe.options[kIndexBits] =
        outliers.index_bits == 0 ? "auto" : absl::StrCat(outliers.index_bits);
  }
}

std::vector<std::pair<std::string, std::string>> TileOptionDescriptions() {
  return {
      IncoherenceDescription("two-sided"),
      HadamardDescription(),
      {kRounding, "ldlq (feedback of rounding errors, with calibration) or nearest; default ldlq"},
      {kScales, "one scale for the tensor, or one per row (16 bits a row); default tensor"}};
}

}  // namespace quantloom
