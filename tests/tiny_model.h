// A random Llama-shaped model small enough for tests, written as a Hugging Face directory with a
// byte-level tokenizer and a chat template.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/format/model_config.h"
#include "tests/temporary_directory.h"

namespace quantloom::testing {

// 2 layers, hidden size 64, 4 query heads over 2 kv heads of 16, 272 tokens, 512 positions.
ModelConfig TinyConfig();

// Values of every tensor of the model, by name: linear weights normal with variance 1/cols (the
// embedding's and head's are larger, so that the next token is not a coin toss), norms near 1.
std::map<std::string, std::vector<float>> TinyWeights(const ModelConfig& config, uint64_t seed);

// Writes the model's tensors, in forward order, as F32.
void WriteTensors(const std::filesystem::path& path, const ModelConfig& config,
                  const std::map<std::string, std::vector<float>>& values);

// Writes config.json, model.safetensors (F32), tokenizer.json and tokenizer_config.json to
// `directory`, which is created.
void WriteTinyModel(const std::filesystem::path& directory, uint64_t seed,
                    const ModelConfig& config = TinyConfig());

}  // namespace quantloom::testing
