// The model of the format tests: sizes that are no powers of two, and values that F16 holds exactly
// and BF16 does not. (tests/tiny_model.h is one that can run.)
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "core/format/model_config.h"
#include "tests/tiny_model.h"

namespace quantloom {

inline constexpr char kTinyConfig[] = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 24,
  "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
  "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true,
  "bos_token_id": 1, "eos_token_id": 2})";

inline uint64_t ShapeSize(const std::vector<uint64_t>& shape) {
  uint64_t size = 1;
  for (uint64_t extent : shape) size *= extent;
  return size;
}

// Distinct multiples of 1/1024 below 1 in magnitude, so that F32 and BF16-sized steps show errors.
inline std::vector<float> TinyValues(uint64_t size, uint32_t seed) {
  std::vector<float> values(size);
  uint32_t state = seed * 2654435761u + 12345u;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = (static_cast<float>(state >> 21) - 1024.0f) / 1024.0f;
  }
  return values;
}

inline std::map<std::string, std::vector<float>> TinyTensors(const ModelConfig& config) {
  std::map<std::string, std::vector<float>> tensors;
  uint32_t seed = 0;
  for (const TensorSpec& spec : ModelTensors(config)) {
    tensors[spec.name] = TinyValues(ShapeSize(spec.shape), ++seed);
  }
  return tensors;
}

inline void WriteTextFile(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

inline std::string ReadTextFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// `config_text` as config.json, every tensor as F32 in model.safetensors.
inline void WriteTinyHfModel(const std::filesystem::path& directory,
                             const std::string& config_text) {
  std::filesystem::create_directories(directory);
  WriteTextFile(directory / "config.json", config_text);
  const ModelConfig config = ModelConfig::FromHfJson(config_text).value();
  testing::WriteTensors(directory / "model.safetensors", config, TinyTensors(config));
}

}  // namespace quantloom
