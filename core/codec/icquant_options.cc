#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/icquant_matrix.h"
#include "core/codec/recipe_options.h"

namespace quantloom {
namespace {

constexpr double kMaxOutliers = 0.25;

// One spelling per value, in the enum's order.
constexpr absl::string_view kInnerNames[] = {"rtn", "kmeans"};
constexpr absl::string_view kCodebookNames[] = {"auto", "fp16", "int8", "tensor", "range"};
constexpr absl::string_view kOffsetNames[] = {"auto", "none", "row"};
constexpr absl::string_view kRoundingNames[] = {"nearest", "ldlq"};

absl::Status BadValue(absl::string_view key, absl::string_view value, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("icquant: ", key, "=", value, ": allowed are ", allowed));
}

absl::Status Conflict(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("icquant: ", what));
}

template <typename Enum, size_t N>
absl::StatusOr<Enum> EnumValue(absl::string_view key, absl::string_view value,
                               const absl::string_view (&names)[N], absl::string_view allowed) {
  for (size_t i = 0; i < N; ++i) {
    if (value == names[i]) return static_cast<Enum>(i);
  }
  return BadValue(key, value, allowed);
}

absl::Status SetOption(absl::string_view key, absl::string_view value, IcquantOptions& options) {
  if (key == "bits") {
    if (!absl::SimpleAtoi(value, &options.bits) ||
        !(options.bits == 8 || (options.bits >= 1 && options.bits <= 4))) {
      return BadValue(key, value, "1, 2, 3, 4, 8");
    }
  } else if (key == "outliers") {
    if (!absl::SimpleAtod(value, &options.outliers) ||
        !(options.outliers >= 0 && options.outliers <= kMaxOutliers)) {
      return BadValue(key, value, "0 to 0.25");
    }
    if (options.outliers == 0) options.outliers = 0;  // -0
  } else if (key == "inner") {
    QL_ASSIGN_OR_RETURN(options.inner, EnumValue<IcquantInner>(key, value, kInnerNames,
                                                               "rtn, kmeans, e8p, trellis"));
  } else if (key == "codebook") {
    QL_ASSIGN_OR_RETURN(
        options.codebook,
        EnumValue<IcquantCodebook>(key, value, kCodebookNames, "auto, fp16, int8, tensor, range"));
  } else if (key == "offset") {
    QL_ASSIGN_OR_RETURN(options.offset,
                        EnumValue<IcquantOffset>(key, value, kOffsetNames, "auto, none, row"));
  } else if (key == "rounding") {
    QL_ASSIGN_OR_RETURN(options.rounding,
                        EnumValue<IcquantRounding>(key, value, kRoundingNames, "ldlq, nearest"));
  } else if (key == "index_bits") {
    if (value == "auto") {
      options.index_bits = 0;
    } else if (!absl::SimpleAtoi(value, &options.index_bits) ||
               options.index_bits < kMinIndexBits || options.index_bits > kMaxIndexBits) {
      return BadValue(key, value, "auto, 2 to 8");
    }
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("icquant: unknown key '", key,
                     "': allowed are bits, codebook, hadamard, incoherence, index_bits, inner, "
                     "offset, outliers, "
                     "rounding"));
  }
  return absl::OkStatus();
}

// What single values cannot tell.
absl::Status CheckCombination(const IcquantOptions& options) {
  const bool kmeans = options.inner == IcquantInner::kKmeans;
  const IcquantCodebook codebook = options.codebook;
  if (options.bits == 8 && kmeans) {
    return Conflict("inner=kmeans: bits=8 takes inner=rtn only");
  }
  if (kmeans && codebook == IcquantCodebook::kRange) {
    return Conflict("codebook=range: inner=kmeans takes auto, fp16, int8, tensor");
  }
  if (!kmeans && (codebook == IcquantCodebook::kFp16 || codebook == IcquantCodebook::kTensor)) {
    return Conflict("codebook: inner=rtn takes auto, int8, range");
  }
  if (options.bits == 8 && codebook == IcquantCodebook::kInt8 && options.outliers > 0) {
    return Conflict("codebook=int8: bits=8 with outliers > 0 takes auto, range");
  }
  if (options.index_bits != 0 && options.outliers == 0) {
    return Conflict(absl::StrCat("index_bits=", options.index_bits, ": there are no outliers"));
  }
  if (options.offset == IcquantOffset::kRow && codebook != IcquantCodebook::kAuto &&
      codebook != IcquantCodebook::kInt8) {
    return Conflict("offset=row: takes codebook=auto or int8");
  }
  if (options.offset == IcquantOffset::kRow && options.bits == 8 && options.outliers > 0) {
    return Conflict("offset=row: bits=8 takes it without outliers only");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<IcquantOptions> IcquantOptions::FromRecipe(Recipe recipe) {
  IcquantOptions options;
  QL_ASSIGN_OR_RETURN(options.incoherence, TakeIncoherence(recipe, IncoherenceKind::kNone));
  for (const auto& [key, value] : recipe.options) {
    QL_RETURN_IF_ERROR(SetOption(key, value, options));
  }
  if (options.bits == 8) {
    if (!recipe.options.contains("inner")) options.inner = IcquantInner::kRtn;
    if (!recipe.options.contains("outliers")) options.outliers = 0;
    // Too fine for feedback to matter, and the embedding's many rows would make it slow.
    if (!recipe.options.contains("rounding")) options.rounding = IcquantRounding::kNearest;
  }
  QL_RETURN_IF_ERROR(CheckCombination(options));
  return options;
}

std::string IcquantOptions::ToRecipe(bool stored) const {
  Recipe recipe{.codec = "icquant", .options = {}};
  recipe.options["bits"] = absl::StrCat(bits);
  recipe.options["inner"] = std::string(kInnerNames[static_cast<int>(inner)]);
  recipe.options["codebook"] = std::string(kCodebookNames[static_cast<int>(codebook)]);
  recipe.options["outliers"] = ShortestDecimal(outliers);
  if (codebook == IcquantCodebook::kInt8 || codebook == IcquantCodebook::kAuto) {
    recipe.options["offset"] = std::string(kOffsetNames[static_cast<int>(offset)]);
  }
  if (outliers > 0) {
    recipe.options["index_bits"] = index_bits == 0 ? "auto" : absl::StrCat(index_bits);
  }
  AddIncoherence(incoherence, stored, recipe);
  recipe.options["rounding"] = std::string(kRoundingNames[static_cast<int>(rounding)]);
  return recipe.ToString();
}

bool IcquantOptions::resolved() const {
  return codebook != IcquantCodebook::kAuto &&
         (codebook != IcquantCodebook::kInt8 || offset != IcquantOffset::kAuto) &&
         (outliers == 0 || index_bits != 0);
}

}  // namespace quantloom
