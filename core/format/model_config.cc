#include "core/format/model_config.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/json.h"
#include "core/base/quoted.h"
#include "core/base/status.h"

namespace quantloom {
namespace {

using nlohmann::json;

// What is fixed by a Hugging Face class and not by its config.json.
struct Architecture {
  absl::string_view name;
  absl::string_view model_type;
  bool attention_bias;        // biases on q, k and v, none on the output projection
  bool qk_norm;               // RMSNorm of q and k per head
  uint64_t default_head_dim;  // 0: hidden_size / num_attention_heads
};

constexpr Architecture kArchitectures[] = {
    {"LlamaForCausalLM", "llama", false, false, 0},
    {"MistralForCausalLM", "mistral", false, false, 0},
    {"Qwen2ForCausalLM", "qwen2", true, false, 0},
    {"Qwen3ForCausalLM", "qwen3", false, true, 128},
};

absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unsupported architecture ", Quoted(name), "; supported: ",
      absl::StrJoin(kArchitectures, ", ", [](std::string* out, const Architecture& architecture) {
        absl::StrAppend(out, architecture.name);
      })));
}

absl::StatusOr<std::string> ReadArchitectureName(const json& root) {
  const json* list = FindJson(root, "architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !(*list)[0].is_string()) {
    return absl::InvalidArgumentError("field 'architectures' is not a list of one string");
  }
  return (*list)[0].get<std::string>();
}

absl::StatusOr<RopeScaling> ReadRopeScaling(const json& object, absl::string_view where,
                                            uint64_t max_position) {
  RopeScaling scaling;
  QL_ASSIGN_OR_RETURN(const std::string legacy_type,
                      JsonFieldOr<std::string>(object, "type", "default"));
  QL_ASSIGN_OR_RETURN(const std::string type,
                      JsonFieldOr<std::string>(object, "rope_type", legacy_type));
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3") {
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported rope type ", Quoted(type), " in '", where, "'"));
  }
  QL_ASSIGN_OR_RETURN(scaling.factor, JsonField<double>(object, "factor"));
  if (type == "linear") {
    scaling.type = RopeScaling::Type::kLinear;
    return scaling;
  }
  scaling.type = RopeScaling::Type::kLlama3;
  QL_ASSIGN_OR_RETURN(scaling.low_freq_factor, JsonField<double>(object, "low_freq_factor"));
  QL_ASSIGN_OR_RETURN(scaling.high_freq_factor, JsonField<double>(object, "high_freq_factor"));
  QL_ASSIGN_OR_RETURN(
      scaling.original_max_position,
      JsonFieldOr<uint64_t>(object, "original_max_position_embeddings", max_position));
  return scaling;
}

// `rope_theta` and `rope_scaling`, or the newer `rope_parameters` that holds both.
absl::Status ReadRope(const json& root, ModelConfig& config) {
  QL_ASSIGN_OR_RETURN(config.rope_theta, JsonFieldOr<double>(root, "rope_theta", 10000.0));
  for (absl::string_view key : {"rope_parameters", "rope_scaling"}) {
    const json* object = FindJson(root, key);
    if (object == nullptr || object->is_null()) continue;
    if (!object->is_object()) {
      return absl::InvalidArgumentError(absl::StrCat("field '", key, "' is not an object"));
    }
    absl::StatusOr<RopeScaling> scaling = ReadRopeScaling(*object, key, config.max_position);
    if (!scaling.ok()) return Annotate(scaling.status(), absl::StrCat("field '", key, "'"));
    config.rope_scaling = *scaling;
    QL_ASSIGN_OR_RETURN(config.rope_theta,
                        JsonFieldOr<double>(*object, "rope_theta", config.rope_theta));
    break;
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> TokenIdFromJson(const json& value, absl::string_view key) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{INT32_MAX}) {
    return absl::InvalidArgumentError(absl::StrCat("field '", key, "' is not a token id"));
  }
  return static_cast<int32_t>(value.get<uint64_t>());
}

absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const json& root, absl::string_view key) {
  std::vector<int32_t> ids;
  const json* value = FindJson(root, key);
  if (value == nullptr || value->is_null()) return ids;
  if (!value->is_array()) {
    QL_ASSIGN_OR_RETURN(const int32_t id, TokenIdFromJson(*value, key));
    ids.push_back(id);
    return ids;
  }
  for (const json& element : *value) {
    QL_ASSIGN_OR_RETURN(const int32_t id, TokenIdFromJson(element, key));
    ids.push_back(id);
  }
  return ids;
}

// Options of the supported classes that change the arithmetic and that the engine does not have.
absl::Status RejectUnsupportedOptions(const json& root, const Architecture& architecture) {
  QL_ASSIGN_OR_RETURN(const std::string activation,
                      JsonFieldOr<std::string>(root, "hidden_act", "silu"));
  if (activation != "silu") {
    return absl::InvalidArgumentError(
        absl::StrCat("field 'hidden_act': unsupported activation ", Quoted(activation)));
  }
  QL_ASSIGN_OR_RETURN(const bool mlp_bias, JsonFieldOr<bool>(root, "mlp_bias", false));
  if (mlp_bias) return absl::InvalidArgumentError("field 'mlp_bias': biases are unsupported");
  QL_ASSIGN_OR_RETURN(const bool attention_bias, JsonFieldOr<bool>(root, "attention_bias", false));
  if (attention_bias && !architecture.attention_bias) {
    return absl::InvalidArgumentError(
        "field 'attention_bias': a bias on the output projection is unsupported");
  }
  QL_ASSIGN_OR_RETURN(const double rotary, JsonFieldOr<double>(root, "partial_rotary_factor", 1.0));
  if (rotary != 1.0) {
    return absl::InvalidArgumentError(
        "field 'partial_rotary_factor': rotating a part of the head is unsupported");
  }
  return absl::OkStatus();
}

// Attention over a sliding window equals full attention as long as the context fits the window, so
// the context is what shrinks.
absl::Status LimitToSlidingWindow(const json& root, ModelConfig& config) {
  QL_ASSIGN_OR_RETURN(const bool used, JsonFieldOr<bool>(root, "use_sliding_window",
                                                         config.model_type == "mistral"));
  QL_ASSIGN_OR_RETURN(const uint64_t window,
                      JsonFieldOr<uint64_t>(root, "sliding_window", config.max_position));
  if (used) config.max_position = std::min(config.max_position, window);
  return absl::OkStatus();
}

absl::Status CheckRange(absl::string_view field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("field '", field, "' is ", value, ", outside [", low, ", ", high, "]"));
}

absl::Status CheckPositive(absl::string_view field, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("field '", field, "' is ", value, ", not a positive number"));
}

absl::Status CheckTokenId(absl::string_view field, int32_t id, uint64_t vocab_size) {
  if (id >= 0 && static_cast<uint64_t>(id) < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "field '", field, "' is ", id, ", outside the vocabulary of ", vocab_size, " tokens"));
}

absl::Status ValidateRope(const ModelConfig& config) {
  QL_RETURN_IF_ERROR(CheckPositive("rope_theta", config.rope_theta));
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type == RopeScaling::Type::kNone) return absl::OkStatus();
  QL_RETURN_IF_ERROR(CheckPositive("rope_scaling.factor", scaling.factor));
  if (scaling.type == RopeScaling::Type::kLinear) return absl::OkStatus();
  QL_RETURN_IF_ERROR(CheckPositive("rope_scaling.low_freq_factor", scaling.low_freq_factor));
  QL_RETURN_IF_ERROR(CheckPositive("rope_scaling.high_freq_factor", scaling.high_freq_factor));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return absl::InvalidArgumentError(
        "field 'rope_scaling.high_freq_factor' is not above 'low_freq_factor'");
  }
  return CheckRange("rope_scaling.original_max_position_embeddings", scaling.original_max_position,
                    1, uint64_t{1} << 32);
}

json RopeScalingToJson(const RopeScaling& scaling) {
  if (scaling.type == RopeScaling::Type::kNone) return nullptr;
  if (scaling.type == RopeScaling::Type::kLinear) {
    return {{"rope_type", "linear"}, {"factor", scaling.factor}};
  }
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_freq_factor},
          {"high_freq_factor", scaling.high_freq_factor},
          {"original_max_position_embeddings", scaling.original_max_position}};
}

}  // namespace

absl::Status ModelConfig::Validate() const {
  QL_ASSIGN_OR_RETURN(const Architecture* known, FindArchitecture(architecture));
  if (attention_bias != known->attention_bias || qk_norm != known->qk_norm ||
      model_type != known->model_type) {
    return absl::InvalidArgumentError(absl::StrCat("model_type '", model_type,
                                                   "', biases or norms contradict architecture '",
                                                   architecture, "'"));
  }
  QL_RETURN_IF_ERROR(CheckRange("vocab_size", vocab_size, 1, 1 << 24));
  QL_RETURN_IF_ERROR(CheckRange("hidden_size", hidden_size, 1, 1 << 18));
  QL_RETURN_IF_ERROR(CheckRange("intermediate_size", intermediate_size, 1, 1 << 20));
  QL_RETURN_IF_ERROR(CheckRange("num_hidden_layers", num_layers, 1, 1024));
  QL_RETURN_IF_ERROR(CheckRange("num_attention_heads", num_heads, 1, 4096));
  QL_RETURN_IF_ERROR(CheckRange("num_key_value_heads", num_kv_heads, 1, num_heads));
  if (num_heads % num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("field 'num_key_value_heads' is ", num_kv_heads,
                                                   ", which does not divide num_attention_heads ",
                                                   num_heads));
  }
  QL_RETURN_IF_ERROR(CheckRange("head_dim", head_dim, 2, 1024));
  if (head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("field 'head_dim' is ", head_dim, ", odd"));
  }
  QL_RETURN_IF_ERROR(CheckRange("max_position_embeddings", max_position, 1, uint64_t{1} << 32));
  QL_RETURN_IF_ERROR(CheckPositive("rms_norm_eps", rms_norm_eps));
  QL_RETURN_IF_ERROR(ValidateRope(*this));
  if (bos_token_id.has_value()) {
    QL_RETURN_IF_ERROR(CheckTokenId("bos_token_id", *bos_token_id, vocab_size));
  }
  for (int32_t id : eos_token_ids) {
    QL_RETURN_IF_ERROR(CheckTokenId("eos_token_id", id, vocab_size));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ModelConfig::FromHfJson(absl::string_view text) {
  QL_ASSIGN_OR_RETURN(const json root, ParseJsonObject(text));
  ModelConfig config;
  QL_ASSIGN_OR_RETURN(config.architecture, ReadArchitectureName(root));
  QL_ASSIGN_OR_RETURN(const Architecture* architecture, FindArchitecture(config.architecture));
  QL_RETURN_IF_ERROR(RejectUnsupportedOptions(root, *architecture));
  config.model_type = std::string(architecture->model_type);
  config.attention_bias = architecture->attention_bias;
  config.qk_norm = architecture->qk_norm;

  QL_ASSIGN_OR_RETURN(config.vocab_size, JsonField<uint64_t>(root, "vocab_size"));
  QL_ASSIGN_OR_RETURN(config.hidden_size, JsonField<uint64_t>(root, "hidden_size"));
  QL_ASSIGN_OR_RETURN(config.intermediate_size, JsonField<uint64_t>(root, "intermediate_size"));
  QL_ASSIGN_OR_RETURN(config.num_layers, JsonField<uint64_t>(root, "num_hidden_layers"));
  QL_ASSIGN_OR_RETURN(config.num_heads, JsonField<uint64_t>(root, "num_attention_heads"));
  QL_RETURN_IF_ERROR(CheckRange("num_attention_heads", config.num_heads, 1, 4096));
  QL_ASSIGN_OR_RETURN(config.num_kv_heads,
                      JsonFieldOr<uint64_t>(root, "num_key_value_heads", config.num_heads));
  const uint64_t default_head_dim = architecture->default_head_dim != 0
                                        ? architecture->default_head_dim
                                        : config.hidden_size / config.num_heads;
  QL_ASSIGN_OR_RETURN(config.head_dim, JsonFieldOr<uint64_t>(root, "head_dim", default_head_dim));
  QL_ASSIGN_OR_RETURN(config.max_position, JsonField<uint64_t>(root, "max_position_embeddings"));
  QL_RETURN_IF_ERROR(LimitToSlidingWindow(root, config));
  QL_RETURN_IF_ERROR(ReadRope(root, config));
  QL_ASSIGN_OR_RETURN(config.rms_norm_eps, JsonFieldOr<double>(root, "rms_norm_eps", 1e-6));
  QL_ASSIGN_OR_RETURN(config.tie_word_embeddings,
                      JsonFieldOr<bool>(root, "tie_word_embeddings", false));
  QL_ASSIGN_OR_RETURN(const std::vector<int32_t> bos, ReadTokenIds(root, "bos_token_id"));
  if (bos.size() > 1) {
    return absl::InvalidArgumentError("field 'bos_token_id' has more than one token");
  }
  if (!bos.empty()) config.bos_token_id = bos[0];
  QL_ASSIGN_OR_RETURN(config.eos_token_ids, ReadTokenIds(root, "eos_token_id"));
  config.source_json = std::string(text);
  QL_RETURN_IF_ERROR(config.Validate());
  return config;
}

std::string ModelConfig::ToHfJson(absl::string_view quantization_config) const {
  json root = json::object();
  if (absl::StatusOr<json> source = ParseJsonObject(source_json); source.ok()) {
    root = *std::move(source);
  }
  root["architectures"] = {architecture};
  root["model_type"] = model_type;
  root["vocab_size"] = vocab_size;
  root["hidden_size"] = hidden_size;
  root["intermediate_size"] = intermediate_size;
  root["num_hidden_layers"] = num_layers;
  root["num_attention_heads"] = num_heads;
  root["num_key_value_heads"] = num_kv_heads;
  root["head_dim"] = head_dim;
  root["hidden_act"] = "silu";
  root["max_position_embeddings"] = max_position;
  root.erase("rope_parameters");
  root["rope_theta"] = rope_theta;
  root["rope_scaling"] = RopeScalingToJson(rope_scaling);
  root["rms_norm_eps"] = rms_norm_eps;
  root["tie_word_embeddings"] = tie_word_embeddings;
  root["bos_token_id"] = bos_token_id.has_value() ? json(*bos_token_id) : json(nullptr);
  if (eos_token_ids.empty()) {
    root["eos_token_id"] = nullptr;
  } else if (eos_token_ids.size() == 1) {
    root["eos_token_id"] = eos_token_ids[0];
  } else {
    root["eos_token_id"] = eos_token_ids;
  }
  root.erase("quantization_config");
  if (!quantization_config.empty()) {
    if (absl::StatusOr<json> added = ParseJson(quantization_config); added.ok()) {
      root["quantization_config"] = *std::move(added);
    }
  }
  return DumpJson(root, 2) + "\n";
}

namespace {

using Role = TensorSpec::Role;

void AddLayerTensors(const ModelConfig& config, uint64_t layer, std::vector<TensorSpec>& tensors) {
  const uint64_t hidden = config.hidden_size;
  const uint64_t q_rows = config.num_heads * config.head_dim;
  const uint64_t kv_rows = config.num_kv_heads * config.head_dim;
  auto add = [&](absl::string_view suffix, std::vector<uint64_t> shape, Role role) {
    tensors.push_back({absl::StrCat("model.layers.", layer, ".", suffix), std::move(shape), role,
                       static_cast<int64_t>(layer)});
  };
  auto add_projection = [&](absl::string_view name, uint64_t rows) {
    add(absl::StrCat("self_attn.", name, ".weight"), {rows, hidden}, Role::kLinear);
    if (config.attention_bias) add(absl::StrCat("self_attn.", name, ".bias"), {rows}, Role::kBias);
  };
  add("input_layernorm.weight", {hidden}, Role::kNorm);
  add_projection("q_proj", q_rows);
  add_projection("k_proj", kv_rows);
  add_projection("v_proj", kv_rows);
  if (config.qk_norm) {
    add("self_attn.q_norm.weight", {config.head_dim}, Role::kNorm);
    add("self_attn.k_norm.weight", {config.head_dim}, Role::kNorm);
  }
  add("self_attn.o_proj.weight", {hidden, q_rows}, Role::kLinear);
  add("post_attention_layernorm.weight", {hidden}, Role::kNorm);
  add("mlp.gate_proj.weight", {config.intermediate_size, hidden}, Role::kLinear);
  add("mlp.up_proj.weight", {config.intermediate_size, hidden}, Role::kLinear);
  add("mlp.down_proj.weight", {hidden, config.intermediate_size}, Role::kLinear);
}

}  // namespace

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) {
  std::vector<TensorSpec> tensors;
  tensors.push_back(
      {"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}, Role::kEmbedding});
  for (uint64_t layer = 0; layer < config.num_layers; ++layer) {
    AddLayerTensors(config, layer, tensors);
  }
  tensors.push_back({"model.norm.weight", {config.hidden_size}, Role::kNorm});
  if (!config.tie_word_embeddings) {
    tensors.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}, Role::kHead});
  }
  return tensors;
}

}  // namespace quantloom
