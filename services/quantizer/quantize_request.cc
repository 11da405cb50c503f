#include "services/quantizer/quantize_request.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status.h"
#include "core/codec/codec.h"
#include "core/text/utf8.h"
#include "engine/quantize/evaluation.h"
#include "services/common/rpc_status.h"

namespace quantloom {
namespace {

// The recipe in canonical spelling.
absl::StatusOr<std::string> AcceptRecipe(const std::string& recipe, absl::string_view field) {
  if (recipe.empty()) return InvalidField(field, "is required");
  if (recipe.size() > kMaxRecipeBytes) {
    return InvalidField(field, absl::StrCat("is longer than ", kMaxRecipeBytes, " bytes"));
  }
  const auto codec = CreateCodec(recipe);
  if (!codec.ok()) return WithField(codec.status(), field);
  return (*codec)->recipe();
}

absl::Status AcceptOverrides(v1::QuantizeRequest& request) {
  if (request.overrides_size() > kMaxOverrides) {
    return InvalidField("overrides",
                        absl::StrCat("has ", request.overrides_size(), " entries; at most ",
                                     kMaxOverrides, " are allowed"));
  }
  for (int i = 0; i < request.overrides_size(); ++i) {
    const std::string field = absl::StrCat("overrides[", i, "]");
    v1::TensorOverride& entry = *request.mutable_overrides(i);
    if (entry.pattern().empty()) {
      return InvalidField(absl::StrCat(field, ".pattern"), "is required");
    }
    if (entry.pattern().size() > kMaxPatternBytes) {
      return InvalidField(absl::StrCat(field, ".pattern"),
                          absl::StrCat("is longer than ", kMaxPatternBytes, " bytes"));
    }
    QL_ASSIGN_OR_RETURN(*entry.mutable_recipe(),
                        AcceptRecipe(entry.recipe(), absl::StrCat(field, ".recipe")));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::filesystem::path> ResolvePath(const std::string& path, absl::string_view field,
                                                  const ConfinedRoot& root) {
  if (path.empty()) return InvalidField(field, "is required");
  if (path.size() > kMaxPathBytes) {
    return InvalidField(field, absl::StrCat("is longer than ", kMaxPathBytes, " bytes"));
  }
  absl::StatusOr<std::filesystem::path> resolved = root.Resolve(path);
  if (!resolved.ok()) return WithField(resolved.status(), field);
  return resolved;
}

absl::StatusOr<std::string> ReadText(const std::string& path, absl::string_view field,
                                     const ConfinedRoot& root) {
  QL_ASSIGN_OR_RETURN(const std::filesystem::path resolved, ResolvePath(path, field, root));
  absl::StatusOr<std::string> text = ReadFile(resolved, kMaxTextFileBytes);
  if (absl::IsResourceExhausted(text.status())) {
    return InvalidField(field,
                        absl::StrCat("'", path, "' is larger than ", kMaxTextFileBytes, " bytes"));
  }
  if (!text.ok()) return WithField(text.status(), field);
  if (text->empty()) return InvalidField(field, absl::StrCat("'", path, "' is empty"));
  if (!IsValidUtf8(*text)) return InvalidField(field, absl::StrCat("'", path, "' is not UTF-8"));
  return text;
}

absl::Status CheckInlineText(const std::string& text, absl::string_view field) {
  if (text.empty()) return InvalidField(field, "must not be empty");
  if (text.size() > kMaxInlineTextBytes) {
    return InvalidField(field, absl::StrCat("has ", text.size(), " bytes; at most ",
                                            kMaxInlineTextBytes, " are allowed"));
  }
  return absl::OkStatus();
}

absl::Status AcceptCalibration(v1::Calibration& calibration, const ConfinedRoot& root) {
  if (calibration.has_path()) {
    QL_RETURN_IF_ERROR(ReadText(calibration.path(), "calibration.path", root).status());
  } else if (calibration.has_inline_text()) {
    QL_RETURN_IF_ERROR(CheckInlineText(calibration.inline_text(), "calibration.inline_text"));
  }
  if (!calibration.has_tokens()) calibration.set_tokens(kDefaultCalibrationTokens);
  if (calibration.tokens() > kMaxCalibrationTokens) {
    return InvalidField("calibration.tokens",
                        absl::StrCat(calibration.tokens(), " is above ", kMaxCalibrationTokens));
  }
  if (!v1::Calibration::Activations_IsValid(calibration.activations())) {
    return InvalidField(
        "calibration.activations",
        absl::StrCat(calibration.activations(), " is not one of the enum's values"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::filesystem::path> ResolveSource(const std::string& source,
                                                    const ConfinedRoot& source_root) {
  return ResolvePath(source, "source", source_root);
}

absl::StatusOr<std::string> ReadEvaluationText(const v1::Evaluation& evaluation,
                                               const ConfinedRoot& source_root) {
  if (evaluation.window_tokens() != 0 && evaluation.window_tokens() < kMinWindowTokens) {
    return InvalidField("evaluation.window_tokens",
                        absl::StrCat(evaluation.window_tokens(), " is below ", kMinWindowTokens));
  }
  if (evaluation.has_path()) return ReadText(evaluation.path(), "evaluation.path", source_root);
  if (!evaluation.has_inline_text()) return InvalidField("evaluation.text", "is required");
  QL_RETURN_IF_ERROR(CheckInlineText(evaluation.inline_text(), "evaluation.inline_text"));
  return evaluation.inline_text();
}

absl::StatusOr<v1::QuantizeRequest> AcceptRequest(const v1::QuantizeRequest& request,
                                                  const ConfinedRoot& source_root) {
  v1::QuantizeRequest accepted = request;
  QL_RETURN_IF_ERROR(ResolveSource(request.source(), source_root).status());
  QL_RETURN_IF_ERROR(WithField(CheckName(request.output()), "output"));
  QL_ASSIGN_OR_RETURN(*accepted.mutable_recipe(), AcceptRecipe(request.recipe(), "recipe"));
  if (accepted.embedding_recipe().empty()) accepted.set_embedding_recipe(kDefaultEmbeddingRecipe);
  QL_ASSIGN_OR_RETURN(*accepted.mutable_embedding_recipe(),
                      AcceptRecipe(accepted.embedding_recipe(), "embedding_recipe"));
  QL_RETURN_IF_ERROR(AcceptOverrides(accepted));
  QL_RETURN_IF_ERROR(AcceptCalibration(*accepted.mutable_calibration(), source_root));
  if (accepted.has_evaluation()) {
    QL_RETURN_IF_ERROR(ReadEvaluationText(accepted.evaluation(), source_root).status());
  }
  return accepted;
}

absl::StatusOr<QuantizeOptions> ToQuantizeOptions(const v1::QuantizeRequest& accepted,
                                                  const ConfinedRoot& source_root) {
  QuantizeOptions options;
  QL_ASSIGN_OR_RETURN(options.source, ResolveSource(accepted.source(), source_root));
  options.recipe = accepted.recipe();
  options.embedding_recipe = accepted.embedding_recipe();
  for (const v1::TensorOverride& entry : accepted.overrides()) {
    options.overrides.emplace_back(entry.pattern(), entry.recipe());
  }
  options.seed = accepted.seed();

  const v1::Calibration& calibration = accepted.calibration();
  options.calibration_tokens = calibration.tokens();
  options.calibrate_on_source = calibration.activations() == v1::Calibration::ACTIVATIONS_SOURCE;
  options.calibration_text = calibration.inline_text();
  if (calibration.has_path()) {
    QL_ASSIGN_OR_RETURN(options.calibration_text,
                        ReadText(calibration.path(), "calibration.path", source_root));
  }
  if (!accepted.has_evaluation()) return options;
  const v1::Evaluation& evaluation = accepted.evaluation();
  QL_ASSIGN_OR_RETURN(options.evaluation_text, ReadEvaluationText(evaluation, source_root));
  options.evaluation_name = evaluation.has_path()
                                ? std::filesystem::path(evaluation.path()).filename().string()
                                : "inline";
  options.evaluation_windows = evaluation.windows();
  options.evaluation_window_tokens = evaluation.window_tokens();
  return options;
}

absl::Status AttributeToField(const absl::Status& status) {
  // The engine puts the option's name, spelled as the request's field, before its message.
  const absl::string_view message = status.message();
  const absl::string_view path = message.substr(0, message.find(": "));
  const absl::string_view name = path.substr(0, path.find_first_of(".["));
  if (path.size() == message.size() ||
      v1::QuantizeRequest::descriptor()->FindFieldByName(std::string(name)) == nullptr) {
    return WithField(status, "source");
  }
  return WithField(absl::Status(status.code(), message.substr(path.size() + 2)), path);
}

}  // namespace quantloom
