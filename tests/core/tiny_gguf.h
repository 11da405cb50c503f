// The tiny model as a GGUF file, as llama.cpp's converter lays one out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/format/gguf_llama.h"
#include "tests/core/format_model.h"
#include "tests/core/gguf_builder.h"

namespace quantloom {

// The order that llama.cpp's converter puts q and k rows in, as it states it for arrays:
// w.reshape(heads, 2, head_dim / 2, cols).swapaxes(1, 2).reshape(w.shape).
inline std::vector<float> Interleave(const std::vector<float>& w, uint64_t heads, uint64_t head_dim,
                                     uint64_t cols) {
  std::vector<float> result;
  for (uint64_t head = 0; head < heads; ++head) {
    for (uint64_t j = 0; j < head_dim / 2; ++j) {
      for (uint64_t half = 0; half < 2; ++half) {
        const auto row = w.begin() + (head * head_dim + half * head_dim / 2 + j) * cols;
        result.insert(result.end(), row, row + cols);
      }
    }
  }
  return result;
}

inline std::vector<std::string> TinyTokens() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (char c = 'a'; tokens.size() < 24; ++c) tokens.push_back(std::string(1, c));
  tokens.back() = "ab";  // what the merge makes
  return tokens;
}

inline GgufBuilder TinyGgufKeys(const std::string& architecture, float rope_theta = 10000) {
  GgufBuilder builder;
  builder.String("general.architecture", architecture)
      .U32(architecture + ".block_count", 2)
      .U32(architecture + ".context_length", 128)
      .U32(architecture + ".embedding_length", 48)
      .U32(architecture + ".feed_forward_length", 64)
      .U32(architecture + ".attention.head_count", 6)
      .U32(architecture + ".attention.head_count_kv", 2)
      .F32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f)
      .F32(architecture + ".rope.freq_base", rope_theta)
      .String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", "smollm")
      .Strings("tokenizer.ggml.tokens", TinyTokens())
      .Array<int32_t>("tokenizer.ggml.token_type", GgufBuilder::kI32,
                      {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
      .Strings("tokenizer.ggml.merges", {"a b"})
      .U32("tokenizer.ggml.bos_token_id", 1)
      .U32("tokenizer.ggml.eos_token_id", 2)
      .U32("tokenizer.ggml.eot_token_id", 5);
  return builder;
}

// Adds every tensor of `config`, q and k in llama.cpp's order where `interleave`.
inline void AddTensors(GgufBuilder& builder, const ModelConfig& config, bool interleave) {
  const auto tensors = TinyTensors(config);
  for (const TensorSpec& spec : ModelTensors(config)) {
    std::vector<float> values = tensors.at(spec.name);
    if (interleave && spec.name.find("q_proj") != std::string::npos) {
      values = Interleave(values, 6, 8, 48);
    } else if (interleave && spec.name.find("k_proj") != std::string::npos) {
      values = Interleave(values, 2, 8, 48);
    }
    builder.FloatTensor(GgufTensorName(spec.name).value(), spec.shape, values);
  }
}

}  // namespace quantloom
