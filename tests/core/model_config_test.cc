#include "core/format/model_config.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantloom {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// The published configuration of Llama 3.2 1B.
json Llama32() {
  return json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
    "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    "vocab_size": 128256, "an_unknown_key": [1, {"a": null}]})");
}

json Qwen2() {
  return json::parse(R"({
    "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
    "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 4096,
    "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936})");
}

ModelConfig Parse(const json& root) {
  auto config = ModelConfig::FromHfJson(root.dump());
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

TEST(ModelConfig, ReadsEveryFieldOfLlama3) {
  const ModelConfig config = Parse(Llama32());
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.vocab_size, 128256u);
  EXPECT_EQ(config.hidden_size, 2048u);
  EXPECT_EQ(config.intermediate_size, 8192u);
  EXPECT_EQ(config.num_layers, 16u);
  EXPECT_EQ(config.num_heads, 32u);
  EXPECT_EQ(config.num_kv_heads, 8u);
  EXPECT_EQ(config.head_dim, 64u);
  EXPECT_EQ(config.max_position, 131072u);
  EXPECT_EQ(config.rope_theta, 500000.0);
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(config.rope_scaling.factor, 32.0);
  EXPECT_EQ(config.rope_scaling.low_freq_factor, 1.0);
  EXPECT_EQ(config.rope_scaling.high_freq_factor, 4.0);
  EXPECT_EQ(config.rope_scaling.original_max_position, 8192u);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_EQ(config.bos_token_id, 128000);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(128001, 128008, 128009));
}

TEST(ModelConfig, AppliesTheClassDefaultsForAbsentFields) {
  json root = Llama32();
  for (const char* key : {"head_dim", "num_key_value_heads", "rope_theta", "rope_scaling",
                          "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id"}) {
    root.erase(key);
  }
  const ModelConfig config = Parse(root);
  EXPECT_EQ(config.head_dim, 64u);
  EXPECT_EQ(config.num_kv_heads, 32u);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kNone);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, std::nullopt);
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(ModelConfig, ReadsRopeParametersOfNewerFiles) {
  json root = Llama32();
  root["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 777.0}};
  root.erase("rope_scaling");
  root.erase("rope_theta");
  const ModelConfig config = Parse(root);
  EXPECT_EQ(config.rope_theta, 777.0);
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(config.rope_scaling.factor, 2.0);
}

TEST(ModelConfig, AContextIsCutToASlidingWindowThatIsInUse) {
  EXPECT_EQ(Parse(Qwen2()).max_position, 32768u);
  json qwen = Qwen2();
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(Parse(qwen).max_position, 4096u);
  json mistral = Llama32();
  mistral["architectures"] = {"MistralForCausalLM"};
  mistral["sliding_window"] = 4096;
  EXPECT_EQ(Parse(mistral).max_position, 4096u);
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(Parse(mistral).max_position, 131072u);
}

TEST(ModelConfig, SurvivesARoundTripAndKeepsUnknownKeys) {
  for (const json& root : {Llama32(), Qwen2()}) {
    const ModelConfig config = Parse(root);
    const std::string text = config.ToHfJson(R"({"quant_method": "quantloom"})");
    const json written = json::parse(text);
    for (const auto& [key, value] : root.items()) EXPECT_EQ(written[key], value) << key;
    EXPECT_EQ(written["quantization_config"]["quant_method"], "quantloom");
    const ModelConfig again = Parse(written);
    EXPECT_EQ(again.ToHfJson(R"({"quant_method": "quantloom"})"), text);
    EXPECT_FALSE(json::parse(again.ToHfJson("")).contains("quantization_config"));
  }
}

struct BadField {
  const char* key;
  json value;
  const char* message;
};

TEST(ModelConfig, RejectsBadValuesNamingTheField) {
  const BadField cases[] = {
      {"architectures", {"GPT2LMHeadModel"}, "unsupported architecture 'GPT2LMHeadModel'"},
      {"architectures", json::array(), "'architectures'"},
      {"architectures", 7, "'architectures'"},
      {"vocab_size", 0, "'vocab_size'"},
      {"vocab_size", -5, "'vocab_size'"},
      {"vocab_size", 1e300, "'vocab_size'"},
      {"vocab_size", "many", "'vocab_size'"},
      {"hidden_size", uint64_t{1} << 60, "'hidden_size'"},
      {"hidden_size", nullptr, "'hidden_size'"},
      {"intermediate_size", 0, "'intermediate_size'"},
      {"num_hidden_layers", 1000000, "'num_hidden_layers'"},
      {"num_attention_heads", 0, "'num_attention_heads'"},
      {"num_key_value_heads", 0, "'num_key_value_heads'"},
      {"num_key_value_heads", 5, "'num_key_value_heads'"},
      {"num_key_value_heads", 64, "'num_key_value_heads'"},
      {"head_dim", 63, "'head_dim'"},
      {"max_position_embeddings", 0, "'max_position_embeddings'"},
      {"rms_norm_eps", -1.0, "'rms_norm_eps'"},
      {"rms_norm_eps", "x", "'rms_norm_eps'"},
      {"rope_theta", 0, "'rope_theta'"},
      {"rope_scaling", 3, "'rope_scaling'"},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}, "'yarn'"},
      {"rope_scaling", {{"rope_type", "linear"}}, "'factor'"},
      {"rope_scaling", {{"type", "linear"}, {"factor", -2.0}}, "rope_scaling.factor"},
      {"hidden_act", "gelu", "'hidden_act'"},
      {"mlp_bias", true, "'mlp_bias'"},
      {"attention_bias", true, "'attention_bias'"},
      {"partial_rotary_factor", 0.5, "'partial_rotary_factor'"},
      {"tie_word_embeddings", 1, "'tie_word_embeddings'"},
      {"bos_token_id", 128256, "'bos_token_id'"},
      {"bos_token_id", -1, "'bos_token_id'"},
      {"eos_token_id", {1, "two"}, "'eos_token_id'"},
  };
  for (const BadField& bad : cases) {
    json root = Llama32();
    root[bad.key] = bad.value;
    const auto config = ModelConfig::FromHfJson(root.dump());
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument)
        << bad.key << "=" << bad.value;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(bad.message));
  }
}

TEST(ModelConfig, RejectsTextThatIsNoUsableJson) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("{\"a\":\"\xff\"}"),
        "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}"}) {
    EXPECT_EQ(ModelConfig::FromHfJson(text).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// The number of parameters of published models follows from their tensors' shapes alone.
TEST(ModelTensors, ParameterCountsMatchThePublishedOnes) {
  const std::map<std::string, uint64_t> expected = {{"LlamaForCausalLM", 1235814400},
                                                    {"Qwen2ForCausalLM", 494032768}};
  for (const json& root : {Llama32(), Qwen2()}) {
    const ModelConfig config = Parse(root);
    uint64_t parameters = 0;
    std::set<std::string> names;
    for (const TensorSpec& tensor : ModelTensors(config)) {
      uint64_t size = 1;
      for (uint64_t extent : tensor.shape) size *= extent;
      parameters += size;
      EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
    }
    EXPECT_EQ(parameters, expected.at(config.architecture));
  }
}

TEST(ModelTensors, FollowsTheArchitecture) {
  json root = Llama32();
  root["architectures"] = {"Qwen3ForCausalLM"};
  root["tie_word_embeddings"] = false;
  root["num_hidden_layers"] = 1;
  root.erase("head_dim");
  root.erase("model_type");
  const std::vector<TensorSpec> tensors = ModelTensors(Parse(root));
  std::vector<std::string> names;
  for (const TensorSpec& tensor : tensors) names.push_back(tensor.name);
  EXPECT_THAT(
      names, ElementsAre(
                 "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                 "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
                 "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.q_norm.weight",
                 "model.layers.0.self_attn.k_norm.weight", "model.layers.0.self_attn.o_proj.weight",
                 "model.layers.0.post_attention_layernorm.weight",
                 "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
                 "model.layers.0.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"));
  EXPECT_THAT(tensors[2].shape, ElementsAre(32 * 128, 2048));
  EXPECT_THAT(tensors[5].shape, ElementsAre(128));
  EXPECT_EQ(tensors[5].role, TensorSpec::Role::kNorm);
  EXPECT_EQ(tensors[5].layer, 0);
  EXPECT_EQ(tensors.back().role, TensorSpec::Role::kHead);
}

}  // namespace
}  // namespace quantloom
