// A decoder-only model's architecture as data: read from Hugging Face's config.json or GGUF
// metadata, written back as config.json. The engine builds its graph from this and nothing else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantloom {

// Rotary embedding scaling (Hugging Face `rope_scaling`). kNone: theta alone.
struct RopeScaling {
  enum class Type { kNone, kLinear, kLlama3 };
  Type type = Type::kNone;
  double factor = 1.0;
  // kLlama3 only:
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  uint64_t original_max_position = 8192;
};

struct ModelConfig {
  std::string architecture;  // Hugging Face class, e.g. "LlamaForCausalLM"
  std::string model_type;    // e.g. "llama"
  uint64_t vocab_size = 0;
  uint64_t hidden_size = 0;
  uint64_t intermediate_size = 0;
  uint64_t num_layers = 0;
  uint64_t num_heads = 0;
  uint64_t num_kv_heads = 0;  // divides num_heads
  uint64_t head_dim = 0;      // even
  uint64_t max_position = 0;  // context length, tokens
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  double rms_norm_eps = 1e-5;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v have biases (Qwen2)
  bool qk_norm = false;         // RMSNorm on q and k per head (Qwen3)
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t> eos_token_ids;
  // The source's config.json text when there was one (unknown keys are carried over by ToHfJson),
  // else empty.
  std::string source_json;

  // Bounds and consistency of every field; INVALID_ARGUMENT naming the field.
  absl::Status Validate() const;

  // Parses and validates config.json. Accepted architectures: LlamaForCausalLM, MistralForCausalLM,
  // Qwen2ForCausalLM, Qwen3ForCausalLM; another is INVALID_ARGUMENT naming it.
  static absl::StatusOr<ModelConfig> FromHfJson(absl::string_view json);
  // config.json text. `quantization_config` (a JSON object's text) is added under that key when not
  // empty.
  std::string ToHfJson(absl::string_view quantization_config) const;
};

// A tensor of the model in Hugging Face naming ("model.layers.0.self_attn.q_proj.weight") with its
// expected shape.
struct TensorSpec {
  enum class Role { kEmbedding, kHead, kLinear, kNorm, kBias };
  std::string name;
  std::vector<uint64_t> shape;  // [rows = output features, cols = input features] or [n]
  Role role;
  int64_t layer = -1;  // decoder layer, or -1 (embedding, final norm, head)
};

// Every tensor a model of this architecture has, in forward order. With tied embeddings there is no
// lm_head.
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

}  // namespace quantloom
