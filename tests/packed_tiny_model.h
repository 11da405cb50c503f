// The tiny model packed with any recipe, on any device.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/device.h"
#include "engine/loaded_model.h"
#include "engine/quantize/quantize_model.h"
#include "gtest/gtest.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom::testing {

// Random ones, the same for the same seed.
inline std::vector<int32_t> Tokens(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = 1 + static_cast<int32_t>(random() % 256);
  return tokens;
}

// The tiny model, or one of another intermediate size, packed with a recipe, once in a process.
inline const std::filesystem::path& Packed(
    const std::string& recipe, uint64_t intermediate_size = TinyConfig().intermediate_size) {
  static const auto* const directory = new TemporaryDirectory();
  static auto* const packed =
      new std::map<std::pair<std::string, uint64_t>, std::filesystem::path>();
  std::filesystem::path& path = (*packed)[{recipe, intermediate_size}];
  if (!path.empty()) return path;
  path = directory->path() / absl::StrCat("model", packed->size());
  const std::filesystem::path source =
      directory->path() / absl::StrCat("source", intermediate_size);
  if (!std::filesystem::exists(source)) {
    ModelConfig config = TinyConfig();
    config.intermediate_size = intermediate_size;
    WriteTinyModel(source, 42, config);
  }
  QuantizeOptions options;
  options.source = source;
  options.recipe = recipe;
  options.calibration_tokens = 0;
  ThreadTeam team(2);
  const auto result = QuantizeModel(
      options, path, team, [](const auto&) {}, [] { return false; });
  EXPECT_TRUE(result.ok()) << result.status();
  return path;
}

inline std::shared_ptr<const LoadedModel> Load(
    const std::string& recipe, const Device& device, ThreadTeam& team,
    uint64_t intermediate_size = TinyConfig().intermediate_size) {
  auto loaded =
      LoadedModel::LoadPacked(Packed(recipe, intermediate_size), Verify::kHeader, device, team);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *loaded : nullptr;
}

}  // namespace quantloom::testing
