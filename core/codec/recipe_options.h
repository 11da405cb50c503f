// Taking options out of a recipe, and those that several codecs share.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/codec/codec.h"
#include "core/transform/incoherence.h"

namespace quantloom {

// Removes option `key` and returns the index of its value in `names`, or `otherwise` when it is not
// there. INVALID_ARGUMENT naming key and allowed values.
absl::StatusOr<size_t> TakeName(Recipe& recipe, absl::string_view key,
                                absl::Span<const absl::string_view> names, size_t otherwise);

// INVALID_ARGUMENT naming an option that is left; `allowed` says which there are.
absl::Status CheckAllTaken(const Recipe& recipe, absl::string_view allowed);

// Takes `bits` of scalar codes: 1, 2, 3, 4 or 8. Errors as TakeName's.
absl::StatusOr<int> TakeBits(Recipe& recipe, int otherwise);

// Takes `rounding` (ldlq or nearest): whether it is ldlq, or `otherwise`. Errors as TakeName's.
absl::StatusOr<bool> TakeLdlq(Recipe& recipe, bool otherwise);
// Its value in a recipe.
std::string RoundingName(bool ldlq);

// Takes `outliers` (a share, 0 to 0.25) and `index_bits` (2 to 8; auto: 0); what is not there stays
// as it is. Errors as TakeName's, also for index bits without outliers.
absl::Status TakeOutliers(Recipe& recipe, double& share, int& index_bits);
// Adds `index_bits`, unless there are no outliers.
void AddIndexBits(double share, int index_bits, Recipe& recipe);

// Takes incoherence, hadamard, input_signs and output_signs. Errors as TakeName's.
absl::StatusOr<IncoherenceOptions> TakeIncoherence(Recipe& recipe, IncoherenceKind otherwise);
// Adds them; the seeds only when `resolved`.
void AddIncoherence(const IncoherenceOptions& incoherence, bool resolved, Recipe& recipe);

// The documentation of `incoherence` and `hadamard`, for CodecInfo.
std::pair<std::string, std::string> IncoherenceDescription(absl::string_view otherwise);
std::pair<std::string, std::string> HadamardDescription();

}  // namespace quantloom
