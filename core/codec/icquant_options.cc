#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/codec/icquant_matrix.h"
#include "core/codec/recipe_options.h"

namespace quantloom {
namespace {

// One spelling per value, in the enums' order.
constexpr absl::string_view kInnerNames[] = {"rtn", "kmeans", "e8p", "trellis"};
constexpr absl::string_view kCodebookNames[] = {"auto", "fp16", "int8", "tensor", "range"};
constexpr absl::string_view kOffsetNames[] = {"auto", "none", "row"};

absl::Status Conflict(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("icquant: ", what));
}

template <typename Enum, size_t N>
absl::Status TakeEnum(Recipe& recipe, absl::string_view key, const absl::string_view (&names)[N],
                      Enum& value) {
  QL_ASSIGN_OR_RETURN(const size_t index, TakeName(recipe, key, names, static_cast<size_t>(value)));
  value = static_cast<Enum>(index);
  return absl::OkStatus();
}

// What single values cannot tell.
absl::Status CheckCombination(const IcquantOptions& options) {
  if (options.inner > IcquantInner::kKmeans) return Conflict("inner: this matrix has no tiles");
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
  QL_ASSIGN_OR_RETURN(options.bits, TakeBits(recipe, options.bits));
  if (options.bits == 8) {
    options.inner = IcquantInner::kRtn;
    options.outliers = 0;
    // Too fine for feedback to matter, and the embedding's many rows would make it slow.
    options.ldlq = false;
  }
  QL_RETURN_IF_ERROR(TakeEnum(recipe, "inner", kInnerNames, options.inner));
  QL_RETURN_IF_ERROR(TakeEnum(recipe, "codebook", kCodebookNames, options.codebook));
  QL_RETURN_IF_ERROR(TakeEnum(recipe, "offset", kOffsetNames, options.offset));
  QL_RETURN_IF_ERROR(TakeOutliers(recipe, options.outliers, options.index_bits));
  QL_ASSIGN_OR_RETURN(options.ldlq, TakeLdlq(recipe, options.ldlq));
  QL_ASSIGN_OR_RETURN(options.incoherence, TakeIncoherence(recipe, IncoherenceKind::kNone));
  QL_RETURN_IF_ERROR(CheckAllTaken(
      recipe,
      "bits, codebook, hadamard, incoherence, index_bits, inner, offset, outliers, rounding"));
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
  AddIndexBits(outliers, index_bits, recipe);
  AddIncoherence(incoherence, stored, recipe);
  recipe.options["rounding"] = RoundingName(ldlq);
  return recipe.ToString();
}

bool IcquantOptions::resolved() const {
  return codebook != IcquantCodebook::kAuto &&
         (codebook != IcquantCodebook::kInt8 || offset != IcquantOffset::kAuto) &&
         (outliers == 0 || index_bits != 0);
}

}  // namespace quantloom
