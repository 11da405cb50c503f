#include "core/format/gguf_llama.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/quoted.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

struct GgufArchitecture {
  absl::string_view name;
  absl::string_view hf_class;
  absl::string_view model_type;
  bool attention_bias;
  bool qk_norm;
  bool interleaved_rotary;  // the converter permutes q and k rows
};

constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", "llama", false, false, true},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", true, false, false},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", false, true, false},
};

absl::StatusOr<GgufArchitecture> FindArchitecture(const GgufFile& file) {
  QL_ASSIGN_OR_RETURN(const absl::string_view name, file.String("general.architecture"));
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("key 'general.architecture': unsupported architecture ", Quoted(name),
                   "; supported: llama, qwen2, qwen3"));
}

// The metadata of one architecture: keys without their "llama." prefix, defaults for absent ones.
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufFile& file, absl::string_view architecture)
      : file_(file), prefix_(absl::StrCat(architecture, ".")) {}

  std::string Full(absl::string_view key) const { return absl::StrCat(prefix_, key); }
  absl::StatusOr<uint64_t> Unsigned(absl::string_view key) const {
    return file_.Unsigned(Full(key));
  }
  absl::StatusOr<uint64_t> UnsignedOr(absl::string_view key, uint64_t fallback) const {
    return file_.Has(Full(key)) ? Unsigned(key) : fallback;
  }
  absl::StatusOr<double> Number(absl::string_view key) const { return file_.Number(Full(key)); }
  absl::StatusOr<double> NumberOr(absl::string_view key, double fallback) const {
    return file_.Has(Full(key)) ? Number(key) : fallback;
  }
  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view fallback) const {
    if (!file_.Has(Full(key))) return std::string(fallback);
    QL_ASSIGN_OR_RETURN(const absl::string_view value, file_.String(Full(key)));
    return std::string(value);
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

absl::Status ReadSizes(const ArchitectureKeys& keys, ModelConfig& config) {
  QL_ASSIGN_OR_RETURN(config.num_layers, keys.Unsigned("block_count"));
  QL_ASSIGN_OR_RETURN(config.max_position, keys.Unsigned("context_length"));
  QL_ASSIGN_OR_RETURN(config.hidden_size, keys.Unsigned("embedding_length"));
  QL_ASSIGN_OR_RETURN(config.intermediate_size, keys.Unsigned("feed_forward_length"));
  QL_ASSIGN_OR_RETURN(config.num_heads, keys.Unsigned("attention.head_count"));
  if (config.num_heads == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("key '", keys.Full("attention.head_count"), "' is 0"));
  }
  QL_ASSIGN_OR_RETURN(config.num_kv_heads,
                      keys.UnsignedOr("attention.head_count_kv", config.num_heads));
  QL_ASSIGN_OR_RETURN(config.head_dim, keys.UnsignedOr("attention.key_length",
                                                       config.hidden_size / config.num_heads));
  QL_ASSIGN_OR_RETURN(const double epsilon, keys.Number("attention.layer_norm_rms_epsilon"));
  config.rms_norm_eps = epsilon;
  return absl::OkStatus();
}

// Keys whose values would change the arithmetic in ways that ModelConfig cannot express.
absl::Status RejectUnsupportedKeys(const ArchitectureKeys& keys, const ModelConfig& config) {
  const std::pair<absl::string_view, uint64_t> required[] = {
      {"expert_count", 0},
      {"attention.value_length", config.head_dim},
      {"rope.dimension_count", config.head_dim},
  };
  for (const auto& [key, expected] : required) {
    QL_ASSIGN_OR_RETURN(const uint64_t value, keys.UnsignedOr(key, expected));
    if (value != expected) {
      return absl::InvalidArgumentError(absl::StrCat("key '", keys.Full(key), "' is ", value,
                                                     "; only ", expected, " is supported here"));
    }
  }
  return absl::OkStatus();
}

// Llama 3's divisor of the rotary frequency theta^(-2i / head_dim): 1 for wavelengths well inside
// the original context, `factor` for those beyond it, smooth in between.
double Llama3Divisor(const ModelConfig& config, const RopeScaling& scaling, uint64_t i) {
  const double frequency = std::pow(
      config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double original = static_cast<double>(scaling.original_max_position);
  if (wavelength < original / scaling.high_freq_factor) return 1.0;
  if (wavelength > original / scaling.low_freq_factor) return scaling.factor;
  const double smooth = (original / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1.0 / ((1 - smooth) / scaling.factor + smooth);
}

// GGUF keeps only Llama 3's divisors. The parameters are the published ones (low 1, high 4, context
// 8192) with the largest divisor as the factor; that they reproduce every divisor is checked.
absl::StatusOr<RopeScaling> RopeScalingFromDivisors(absl::Span<const float> divisors,
                                                    const ArchitectureKeys& keys,
                                                    const ModelConfig& config) {
  if (divisors.size() != config.head_dim / 2) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", kGgufRopeFactors, "' has ",
                                                   divisors.size(), " values, not ",
                                                   config.head_dim / 2));
  }
  RopeScaling scaling;
  if (std::all_of(divisors.begin(), divisors.end(), [](float d) { return d == 1.0f; })) {
    return scaling;
  }
  scaling.type = RopeScaling::Type::kLlama3;
  scaling.factor = *std::max_element(divisors.begin(), divisors.end());
  QL_ASSIGN_OR_RETURN(
      scaling.original_max_position,
      keys.UnsignedOr("rope.scaling.original_context_length", scaling.original_max_position));
  for (uint64_t i = 0; i < divisors.size(); ++i) {
    const double expected = Llama3Divisor(config, scaling, i);
    if (!(std::abs(divisors[i] - expected) <= 1e-3 * expected)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", kGgufRopeFactors, "': value ", i,
                                                     " is ", divisors[i],
                                                     ", where Llama 3's scaling gives ", expected));
    }
  }
  return scaling;
}

absl::Status ReadRope(const GgufFile& file, const ArchitectureKeys& keys, ModelConfig& config) {
  QL_ASSIGN_OR_RETURN(config.rope_theta, keys.NumberOr("rope.freq_base", 10000.0));
  if (!(config.rope_theta > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("key '", keys.Full("rope.freq_base"), "' is not positive"));
  }
  if (file.FindTensor(kGgufRopeFactors) != nullptr) {
    QL_ASSIGN_OR_RETURN(const std::vector<float> divisors, file.ReadFloats(kGgufRopeFactors));
    QL_ASSIGN_OR_RETURN(config.rope_scaling, RopeScalingFromDivisors(divisors, keys, config));
    return absl::OkStatus();
  }
  QL_ASSIGN_OR_RETURN(const std::string type, keys.StringOr("rope.scaling.type", "none"));
  if (type == "none") return absl::OkStatus();
  if (type != "linear") {
    return absl::InvalidArgumentError(absl::StrCat("key '", keys.Full("rope.scaling.type"),
                                                   "': unsupported rope type ", Quoted(type)));
  }
  config.rope_scaling.type = RopeScaling::Type::kLinear;
  QL_ASSIGN_OR_RETURN(config.rope_scaling.factor, keys.Number("rope.scaling.factor"));
  return absl::OkStatus();
}

absl::Status ReadTokens(const GgufFile& file, ModelConfig& config) {
  QL_ASSIGN_OR_RETURN(config.vocab_size, file.ArraySize("tokenizer.ggml.tokens"));
  auto read_id = [&](absl::string_view name, std::optional<int32_t>& id) -> absl::Status {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    if (!file.Has(key)) return absl::OkStatus();
    QL_ASSIGN_OR_RETURN(const uint64_t value, file.Unsigned(key));
    if (value >= config.vocab_size || value > uint64_t{INT32_MAX}) {
      return absl::InvalidArgumentError(
          absl::StrCat("key '", key, "' is ", value, ", outside the vocabulary"));
    }
    id = static_cast<int32_t>(value);
    return absl::OkStatus();
  };
  QL_RETURN_IF_ERROR(read_id("bos", config.bos_token_id));
  // Chat models end a turn with a token of its own besides the end of the text.
  for (absl::string_view name : {"eos", "eot", "eom"}) {
    std::optional<int32_t> id;
    QL_RETURN_IF_ERROR(read_id(name, id));
    if (id.has_value() && std::find(config.eos_token_ids.begin(), config.eos_token_ids.end(),
                                    *id) == config.eos_token_ids.end()) {
      config.eos_token_ids.push_back(*id);
    }
  }
  return absl::OkStatus();
}

constexpr std::pair<absl::string_view, absl::string_view> kModelNames[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

// After "model.layers.N." and "blk.N.", before ".weight" or ".bias".
constexpr std::pair<absl::string_view, absl::string_view> kLayerNames[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

}  // namespace

absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file) {
  QL_ASSIGN_OR_RETURN(const GgufArchitecture architecture, FindArchitecture(file));
  ModelConfig config;
  config.architecture = std::string(architecture.hf_class);
  config.model_type = std::string(architecture.model_type);
  config.attention_bias = architecture.attention_bias;
  config.qk_norm = architecture.qk_norm;
  const ArchitectureKeys keys(file, architecture.name);
  QL_RETURN_IF_ERROR(ReadSizes(keys, config));
  QL_RETURN_IF_ERROR(RejectUnsupportedKeys(keys, config));
  QL_RETURN_IF_ERROR(ReadRope(file, keys, config));
  QL_RETURN_IF_ERROR(ReadTokens(file, config));
  config.tie_word_embeddings = file.FindTensor("output.weight") == nullptr;
  QL_RETURN_IF_ERROR(config.Validate());
  return config;
}

std::optional<std::string> GgufTensorName(absl::string_view hf_name) {
  for (const auto& [hf, gguf] : kModelNames) {
    if (hf_name == hf) return std::string(gguf);
  }
  absl::string_view rest = hf_name;
  if (!absl::ConsumePrefix(&rest, "model.layers.")) return std::nullopt;
  const size_t dot = rest.find('.');
  const size_t last_dot = rest.rfind('.');
  if (dot == absl::string_view::npos || dot >= last_dot) return std::nullopt;
  const absl::string_view layer = rest.substr(0, dot);
  const absl::string_view middle = rest.substr(dot + 1, last_dot - dot - 1);
  for (const auto& [hf, gguf] : kLayerNames) {
    if (middle == hf) return absl::StrCat("blk.", layer, ".", gguf, rest.substr(last_dot));
  }
  return std::nullopt;
}

bool HasInterleavedRotaryRows(const GgufFile& file, absl::string_view hf_name) {
  const absl::StatusOr<GgufArchitecture> architecture = FindArchitecture(file);
  return architecture.ok() && architecture->interleaved_rotary &&
         (absl::StrContains(hf_name, ".q_proj.") || absl::StrContains(hf_name, ".k_proj."));
}

std::vector<float> UndoInterleavedRotaryRows(absl::Span<const float> values, uint64_t head_dim,
                                             uint64_t cols) {
  std::vector<float> result(values.size());
  const uint64_t rows = values.size() / cols;
  for (uint64_t row = 0; row < rows; ++row) {
    const uint64_t head = row / head_dim * head_dim;
    const uint64_t in_head = row % head_dim;
    const uint64_t half = in_head % 2;
    const uint64_t target = head + half * (head_dim / 2) + in_head / 2;
    std::copy_n(values.begin() + row * cols, cols, result.begin() + target * cols);
  }
  return result;
}

}  // namespace quantloom
