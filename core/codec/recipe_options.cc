#include "core/codec/recipe_options.h"

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/status.h"
#include "core/codec/gap_code.h"

namespace quantloom {
namespace {

constexpr char kRounding[] = "rounding";
constexpr char kOutliers[] = "outliers";
constexpr char kIndexBits[] = "index_bits";
constexpr double kMaxOutliers = 0.25;
constexpr char kKind[] = "incoherence";
constexpr char kBlocks[] = "hadamard";
constexpr char kInputSigns[] = "input_signs";
constexpr char kOutputSigns[] = "output_signs";

// One spelling per value, in the enums' order.
constexpr absl::string_view kRoundingNames[] = {"nearest", "ldlq"};
constexpr absl::string_view kKindNames[] = {"none", "input", "two-sided"};
constexpr absl::string_view kBlockNames[] = {"full", "128"};

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

absl::StatusOr<size_t> TakeName(Recipe& recipe, absl::string_view key,
                                absl::Span<const absl::string_view> names, size_t otherwise) {
  const auto it = recipe.options.find(std::string(key));
  if (it == recipe.options.end()) return otherwise;
  for (size_t i = 0; i < names.size(); ++i) {
    if (it->second == names[i]) {
      recipe.options.erase(it);
      return i;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(recipe.codec, ": ", key, "=", it->second,
                                                 ": allowed are ", absl::StrJoin(names, ", ")));
}

absl::Status CheckAllTaken(const Recipe& recipe, absl::string_view allowed) {
  if (recipe.options.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      recipe.codec, ": unknown key '", recipe.options.begin()->first, "': allowed are ", allowed));
}

absl::StatusOr<int> TakeBits(Recipe& recipe, int otherwise) {
  static constexpr absl::string_view kNames[] = {"1", "2", "3", "4", "8"};
  static constexpr int kBits[] = {1, 2, 3, 4, 8};
  const auto* const known = absl::c_find(kBits, otherwise);
  QL_ASSIGN_OR_RETURN(const size_t index, TakeName(recipe, "bits", kNames, known - kBits));
  return kBits[index];
}

absl::StatusOr<bool> TakeLdlq(Recipe& recipe, bool otherwise) {
  QL_ASSIGN_OR_RETURN(const size_t rounding,
                      TakeName(recipe, kRounding, kRoundingNames, otherwise ? 1 : 0));
  return rounding == 1;
}

std::string RoundingName(bool ldlq) { return std::string(kRoundingNames[ldlq ? 1 : 0]); }

absl::Status TakeOutliers(Recipe& recipe, double& share, int& index_bits) {
  if (const auto it = recipe.options.find(kOutliers); it != recipe.options.end()) {
    if (!absl::SimpleAtod(it->second, &share) || !(share >= 0 && share <= kMaxOutliers)) {
      return absl::InvalidArgumentError(
          absl::StrCat(recipe.codec, ": outliers=", it->second, ": allowed are 0 to 0.25"));
    }
    if (share == 0) share = 0;  // -0
    recipe.options.erase(it);
  }
  if (const auto it = recipe.options.find(kIndexBits); it != recipe.options.end()) {
    if (it->second == "auto") {
      index_bits = 0;
    } else if (!absl::SimpleAtoi(it->second, &index_bits) || index_bits < kMinIndexBits ||
               index_bits > kMaxIndexBits) {
      return absl::InvalidArgumentError(
          absl::StrCat(recipe.codec, ": index_bits=", it->second, ": allowed are auto, 2 to 8"));
    }
    recipe.options.erase(it);
  }
  if (index_bits != 0 && share == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(recipe.codec, ": index_bits=", index_bits, ": there are no outliers"));
  }
  return absl::OkStatus();
}

void AddIndexBits(double share, int index_bits, Recipe& recipe) {
  if (share == 0) return;
  recipe.options[kIndexBits] = index_bits == 0 ? "auto" : absl::StrCat(index_bits);
}

absl::StatusOr<IncoherenceOptions> TakeIncoherence(Recipe& recipe, IncoherenceKind otherwise) {
  IncoherenceOptions incoherence;
  QL_ASSIGN_OR_RETURN(const size_t kind,
                      TakeName(recipe, kKind, kKindNames, static_cast<size_t>(otherwise)));
  QL_ASSIGN_OR_RETURN(const size_t blocks, TakeName(recipe, kBlocks, kBlockNames, 0));
  incoherence.kind = static_cast<IncoherenceKind>(kind);
  incoherence.blocks = static_cast<HadamardBlocks>(blocks);
  QL_ASSIGN_OR_RETURN(incoherence.input_seed, TakeSeed(recipe, kInputSigns));
  QL_ASSIGN_OR_RETURN(incoherence.output_seed, TakeSeed(recipe, kOutputSigns));
  if (incoherence.kind == IncoherenceKind::kNone && blocks != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(recipe.codec, ": hadamard=128: has no meaning with incoherence=none"));
  }
  return incoherence;
}

void AddIncoherence(const IncoherenceOptions& incoherence, bool resolved, Recipe& recipe) {
  recipe.options[kKind] = std::string(kKindNames[static_cast<size_t>(incoherence.kind)]);
  if (incoherence.kind == IncoherenceKind::kNone) return;
  recipe.options[kBlocks] = std::string(kBlockNames[static_cast<size_t>(incoherence.blocks)]);
  if (!resolved) return;
  recipe.options[kInputSigns] = absl::StrFormat("%016x", incoherence.input_seed);
  if (incoherence.kind == IncoherenceKind::kTwoSided) {
    recipe.options[kOutputSigns] = absl::StrFormat("%016x", incoherence.output_seed);
  }
}

std::pair<std::string, std::string> IncoherenceDescription(absl::string_view otherwise) {
  return {kKind, absl::StrCat("randomized Hadamard transform on both sides (two-sided), on the "
                              "input side alone (input), or none; default ",
                              otherwise)};
}

std::pair<std::string, std::string> HadamardDescription() {
  return {kBlocks,
          "full transforms where the size allows, or in blocks of 128 (faster at run time); "
          "default full"};
}

}  // namespace quantloom
