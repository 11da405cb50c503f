// QuantizeRequest: what is accepted, and what it means to the engine.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "engine/quantize/quantize_model.h"
#include "quantloom/v1/quantization.pb.h"
#include "services/common/confined_root.h"

namespace quantloom {

// Limits of quantization.proto, and of what a job may make the service keep.
inline constexpr int kMaxOverrides = 256;
inline constexpr size_t kMaxRecipeBytes = 1024;
inline constexpr size_t kMaxPatternBytes = 1024;
inline constexpr size_t kMaxPathBytes = 4096;
inline constexpr size_t kMaxInlineTextBytes = size_t{2} << 20;
inline constexpr size_t kMaxTextFileBytes = size_t{64} << 20;
inline constexpr uint32_t kMaxCalibrationTokens = 1 << 20;
inline constexpr uint32_t kDefaultCalibrationTokens = 8192;
inline constexpr char kDefaultEmbeddingRecipe[] = "icquant:bits=8,inner=rtn,outliers=0";

// Checks every field by itself; whether the source is a supported model is the engine's to say
// (ResolveQuantizeOptions). Returns the request with defaults filled in and recipes in canonical
// spelling. Errors name the field (rpc_status.h, WithField).
absl::StatusOr<v1::QuantizeRequest> AcceptRequest(const v1::QuantizeRequest& request,
                                                  const ConfinedRoot& source_root);

// The source that a request names. Errors name the field "source".
absl::StatusOr<std::filesystem::path> ResolveSource(const std::string& source,
                                                    const ConfinedRoot& source_root);

// An evaluation's text, after a check of every field. Errors name the field.
absl::StatusOr<std::string> ReadEvaluationText(const v1::Evaluation& evaluation,
                                               const ConfinedRoot& source_root);

// An accepted request for the engine, paths resolved and texts read.
absl::StatusOr<QuantizeOptions> ToQuantizeOptions(const v1::QuantizeRequest& accepted,
                                                  const ConfinedRoot& source_root);

// `status` of ResolveQuantizeOptions with the field that it is about.
absl::Status AttributeToField(const absl::Status& status);

}  // namespace quantloom
