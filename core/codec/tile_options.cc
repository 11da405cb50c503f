#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status.h"
#include "core/codec/tile_code.h"

namespace quantloom {
namespace {

constexpr char kKind[] = "incoherence";
constexpr char kBlocks[] = "hadamard";
constexpr char kRounding[] = "rounding";
constexpr char kScales[] = "scales";
constexpr char kOutliers[] = "outliers";
constexpr char kIndexBits[] = "index_bits";
constexpr char kInputSigns[] = "input_signs";
constexpr char kOutputSigns[] = "output_signs";

// One spelling per value, in the enums' order.
constexpr absl::string_view kKindNames[] = {"none", "input", "two-sided"};
constexpr absl::string_view kBlockNames[] = {"full", "128"};
constexpr absl::string_view kRoundingNames[] = {"nearest", "ldlq"};
constexpr absl::string_view kScaleNames[] = {"tensor", "row"};

constexpr double kMaxOutliers = 0.25;

// Removes the option and returns the index of its value, or `otherwise` when it is not there.
template <size_t N>
absl::StatusOr<size_t> TakeName(Recipe& recipe, const char* key,
                                const absl::string_view (&names)[N], size_t otherwise) {
  const auto it = recipe.options.find(key);
  if (it == recipe.options.end()) return otherwise;
  std::string allowed;
  for (size_t i = 0; i < N; ++i) {
    if (it->second == names[i]) {
      recipe.options.erase(it);
      return i;
    }
    absl::StrAppend(&allowed, i == 0 ? "" : ", ", names[i]);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(recipe.codec, ": ", key, "=", it->second, ": allowed are ", allowed));
}

absl::StatusOr<uint64_t> TakeSeed(Recipe& recipe, const char* key) {
  const auto it = recipe.options.find(key);
  if (it == recipe.options.end()) return 0;
  uint64_t seed = 0;
  if (it->second.size() != 16 || !absl::SimpleHexAtoi(it->second, &seed)) {
    return absl::InvalidArgumentError(
        absl::StrCat(recipe.codec, ": ", key, "=", it->second, ": 16 hexadecimal digits"));
  }
  recipe.options.erase(it);
  return seed;
}

}  // namespace

absl::StatusOr<TileOptions> TileOptions::TakeFrom(Recipe& recipe, TileOptions defaults) {
  TileOptions options = defaults;
  QL_ASSIGN_OR_RETURN(const size_t kind, TakeName(recipe, kKind, kKindNames,
                                                  static_cast<size_t>(defaults.incoherence.kind)));
  QL_ASSIGN_OR_RETURN(const size_t blocks, TakeName(recipe, kBlocks, kBlockNames, 0));
  QL_ASSIGN_OR_RETURN(const size_t rounding, TakeName(recipe, kRounding, kRoundingNames, 1));
  options.incoherence.kind = static_cast<IncoherenceKind>(kind);
  options.incoherence.blocks = static_cast<HadamardBlocks>(blocks);
  QL_ASSIGN_OR_RETURN(const size_t scales,
                      TakeName(recipe, kScales, kScaleNames, static_cast<size_t>(defaults.scales)));
  options.ldlq = rounding == 1;
  options.scales = static_cast<TileScales>(scales);
  QL_ASSIGN_OR_RETURN(options.incoherence.input_seed, TakeSeed(recipe, kInputSigns));
  QL_ASSIGN_OR_RETURN(options.incoherence.output_seed, TakeSeed(recipe, kOutputSigns));
  if (options.incoherence.kind == IncoherenceKind::kNone && blocks != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(recipe.codec, ": hadamard=128: has no meaning with incoherence=none"));
  }
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

absl::Status CheckAllTaken(const Recipe& recipe, absl::string_view allowed) {
  if (recipe.options.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      recipe.codec, ": unknown key '", recipe.options.begin()->first, "': allowed are ", allowed));
}

void TileOptions::AddTo(Recipe& recipe, bool resolved) const {
  const IncoherenceKind kind = incoherence.kind;
  recipe.options[kKind] = std::string(kKindNames[static_cast<size_t>(kind)]);
  recipe.options[kRounding] = std::string(kRoundingNames[ldlq ? 1 : 0]);
  recipe.options[kScales] = std::string(kScaleNames[static_cast<size_t>(scales)]);
  if (recipe.options.contains("inner")) {
    recipe.options[kOutliers] = ShortestDecimal(outliers.share);
  }
  if (outliers.share > 0) {
    recipe.options[kIndexBits] =
        outliers.index_bits == 0 ? "auto" : absl::StrCat(outliers.index_bits);
  }
  if (kind == IncoherenceKind::kNone) return;
  recipe.options[kBlocks] = std::string(kBlockNames[static_cast<size_t>(incoherence.blocks)]);
  if (!resolved) return;
  recipe.options[kInputSigns] = absl::StrFormat("%016x", incoherence.input_seed);
  if (kind == IncoherenceKind::kTwoSided) {
    recipe.options[kOutputSigns] = absl::StrFormat("%016x", incoherence.output_seed);
  }
}

std::vector<std::pair<std::string, std::string>> TileOptionDescriptions() {
  return {
      {kKind,
       "randomized Hadamard transform on both sides (two-sided), on the input side alone "
       "(input), or none; default two-sided"},
      {kBlocks,
       "full transforms where the size allows, or in blocks of 128 (faster at run time); "
       "default full"},
      {kRounding, "ldlq (feedback of rounding errors, with calibration) or nearest; default ldlq"},
      {kScales, "one scale for the tensor, or one per row (16 bits a row); default tensor"}};
}

}  // namespace quantloom
