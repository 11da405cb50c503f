#include "engine/quantize/tensor_plan.h"

#include <fnmatch.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

absl::StatusOr<std::shared_ptr<const Codec>> CodecFor(absl::string_view field,
                                                      const std::string& recipe) {
  absl::StatusOr<std::unique_ptr<Codec>> codec = CreateCodec(recipe);
  if (!codec.ok()) return Annotate(codec.status(), field);
  return std::shared_ptr<const Codec>(*std::move(codec));
}

}  // namespace

absl::StatusOr<std::vector<PlannedTensor>> PlanTensors(const ModelConfig& config,
                                                       const QuantizeOptions& options) {
  QL_ASSIGN_OR_RETURN(auto linear, CodecFor("recipe", options.recipe));
  QL_ASSIGN_OR_RETURN(auto embedding, CodecFor("embedding_recipe", options.embedding_recipe));
  struct Override {
    std::string pattern;
    std::shared_ptr<const Codec> codec;
    bool used = false;
  };
  std::vector<Override> overrides;
  for (const auto& [pattern, recipe] : options.overrides) {
    const std::string field = absl::StrCat("overrides[", overrides.size(), "]");
    if (pattern.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(field, ": pattern is empty"));
    }
    QL_ASSIGN_OR_RETURN(auto codec, CodecFor(field, recipe));
    overrides.push_back({pattern, std::move(codec)});
  }

  std::vector<PlannedTensor> plan;
  for (TensorSpec& spec : ModelTensors(config)) {
    PlannedTensor tensor{std::move(spec), nullptr};
    const TensorSpec::Role role = tensor.spec.role;
    const bool matrix = role == TensorSpec::Role::kLinear || role == TensorSpec::Role::kEmbedding ||
                        role == TensorSpec::Role::kHead;
    if (matrix) {
      tensor.codec = role == TensorSpec::Role::kLinear ? linear : embedding;
      for (Override& override : overrides) {
        if (fnmatch(override.pattern.c_str(), tensor.spec.name.c_str(), 0) == 0) {
          tensor.codec = override.codec;
          override.used = true;
          break;
        }
      }
    }
    if (role == TensorSpec::Role::kEmbedding && tensor.codec->transforms_outputs()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "recipe of '", tensor.spec.name, "': ", tensor.codec->recipe(),
          " transforms outputs, so that rows cannot be looked up; take incoherence=input or none"));
    }
    plan.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < overrides.size(); ++i) {
    if (!overrides[i].used) {
      return absl::InvalidArgumentError(
          absl::StrCat("overrides[", i, "]: pattern '", overrides[i].pattern,
                       "' matches no matrix that an earlier override left"));
    }
  }
  return plan;
}

}  // namespace quantloom
