// The tiny model as a packed one: matrices by ICQuant, norms as they are.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/codec/codec.h"
#include "core/format/packed_model.h"
#include "tests/core/format_model.h"

namespace quantloom {

inline constexpr char kTinyRecipe[] = "icquant:bits=2,outliers=0.1";

// One value per column: linear tensors are encoded with this importance.
inline std::vector<float> TinyImportance(uint64_t cols) {
  std::vector<float> importance(cols);
  for (uint64_t c = 0; c < cols; ++c) importance[c] = 1.0f + static_cast<float>(c % 5);
  return importance;
}

inline absl::Status AddTinyTensor(PackedModelWriter& writer, const TensorSpec& spec,
                                  const std::vector<float>& values) {
  if (spec.role == TensorSpec::Role::kNorm || spec.role == TensorSpec::Role::kBias) {
    return writer.AddRaw(spec.name, spec.shape, DType::kBF16, values);
  }
  ThreadTeam team(1);
  const bool embedding = spec.role == TensorSpec::Role::kEmbedding;
  auto codec = CreateCodec(embedding ? "icquant:bits=8,inner=rtn,outliers=0" : kTinyRecipe);
  if (!codec.ok()) return codec.status();
  const std::vector<float> importance = TinyImportance(spec.shape[1]);
  auto encoded = (*codec)->Encode(
      {.weights = values, .rows = spec.shape[0], .cols = spec.shape[1], .importance = importance},
      team);
  if (!encoded.ok()) return encoded.status();
  return writer.AddEncoded(spec.name, spec.shape[0], spec.shape[1], *encoded, "");
}

inline std::map<std::string, std::string> TinyTokenizerFiles() {
  return {{"tokenizer.json", "{\"version\": \"1.0\"}\n"}, {"tokenizer_config.json", "{}\n"}};
}

inline PackedManifest TinyManifestHeader() {
  PackedManifest manifest;
  manifest.recipe = kTinyRecipe;
  manifest.source_sha256 = std::string(64, 'a');
  manifest.calibration_sha256 = std::string(64, 'b');
  manifest.seed = 7;
  return manifest;
}

// Adds what is missing, one tensor after another, and finishes.
inline absl::StatusOr<PackedManifest> WriteTinyPackedModel(
    const std::filesystem::path& directory, const PackedModelWriter::Options& options = {}) {
  auto writer = PackedModelWriter::Open(directory, options);
  if (!writer.ok()) return writer.status();
  const ModelConfig config = ModelConfig::FromHfJson(kTinyConfig).value();
  const auto tensors = TinyTensors(config);
  for (const TensorSpec& spec : ModelTensors(config)) {
    if ((*writer)->FindTensor(spec.name) != nullptr) continue;
    const absl::Status status = AddTinyTensor(**writer, spec, tensors.at(spec.name));
    if (!status.ok()) return status;
  }
  return (*writer)->Finish(config, TinyTokenizerFiles(), TinyManifestHeader());
}

// Every file below `directory`, by its path there.
inline std::map<std::string, std::string> DirectoryContents(
    const std::filesystem::path& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    contents[entry.path().lexically_relative(directory).string()] = ReadTextFile(entry.path());
  }
  return contents;
}

}  // namespace quantloom
