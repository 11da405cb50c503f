#include "core/format/source_model.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <vector>

#include "core/base/sha256.h"
#include "core/format/gguf_llama.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/format_model.h"
#include "tests/core/tiny_gguf.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SourceModelTest : public ::testing::Test {
 protected:
  // The failure of opening `path`, whose code must be `code` and whose message must hold `message`.
  void ExpectFailure(const std::filesystem::path& path, absl::StatusCode code,
                     const std::string& message) {
    const absl::Status status = SourceModel::Open(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  testing::TemporaryDirectory temporary_;
  const std::filesystem::path directory_ = temporary_.path();
};

TEST_F(SourceModelTest, OpensAHuggingFaceDirectory) {
  WriteTinyHfModel(directory_, kTinyConfig);
  WriteTextFile(directory_ / "tokenizer.json", "{\"a\":1}");
  WriteTextFile(directory_ / "generation_config.json", "{\"eos_token_id\":[2,7]}");
  WriteTextFile(directory_ / "tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
  WriteTextFile(directory_ / "chat_template.jinja", "{{ messages }}");
  auto model = SourceModel::Open(directory_);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const auto& [name, values] : TinyTensors((*model)->config())) {
    EXPECT_EQ((*model)->ReadFloats(name).value(), values) << name;
    EXPECT_EQ((*model)->StoredType(name).value(), DType::kF32);
  }
  EXPECT_EQ((*model)->ReadFloats("lm_head.weight").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT((*model)->config().eos_token_ids, ElementsAre(2, 7));
  const auto& files = (*model)->tokenizer_files();
  EXPECT_EQ(files.at("tokenizer.json"), "{\"a\":1}");
  const json tokenizer_config = json::parse(files.at("tokenizer_config.json"));
  EXPECT_EQ(tokenizer_config["bos_token"], "<s>");
  EXPECT_EQ(tokenizer_config["chat_template"], "{{ messages }}");
  EXPECT_FALSE(files.contains("special_tokens_map.json"));
}

TEST_F(SourceModelTest, TheDigestIsThatOfTheSha256sumLines) {
  WriteTinyHfModel(directory_, kTinyConfig);
  auto model = SourceModel::Open(directory_).value();
  std::string lines;
  for (const char* name : {"config.json", "model.safetensors"}) {
    const std::string text = ReadTextFile(directory_ / name);
    lines += Sha256::Of(AsBytes(text)) + "  " + name + "\n";
  }
  EXPECT_EQ(model->Digest().value(), Sha256::Of(AsBytes(lines)));
  EXPECT_EQ(model->Digest().value(), Sha256::Of(AsBytes(lines)));
}

TEST_F(SourceModelTest, RejectsADirectoryThatContradictsItsConfiguration) {
  ExpectFailure(directory_ / "missing", absl::StatusCode::kNotFound, "missing");
  ExpectFailure(directory_, absl::StatusCode::kNotFound, "config.json");
  WriteTinyHfModel(directory_, kTinyConfig);
  json config = json::parse(kTinyConfig);
  auto with = [&](const char* key, const json& value) {
    json changed = config;
    changed[key] = value;
    WriteTextFile(directory_ / "config.json", changed.dump());
  };
  with("num_hidden_layers", 3);
  ExpectFailure(directory_, absl::StatusCode::kInvalidArgument,
                "'model.layers.2.input_layernorm.weight' is missing");
  with("num_hidden_layers", 1);
  ExpectFailure(directory_, absl::StatusCode::kInvalidArgument, "'model.layers.1.");
  with("intermediate_size", 65);
  ExpectFailure(directory_, absl::StatusCode::kInvalidArgument, "mlp.gate_proj.weight' has shape");
  with("architectures", {"GPT2LMHeadModel"});
  ExpectFailure(directory_, absl::StatusCode::kInvalidArgument, "GPT2LMHeadModel");
  with("quantization_config", {{"quant_method", "gptq"}});
  ExpectFailure(directory_, absl::StatusCode::kInvalidArgument, "gptq");
  with("tie_word_embeddings", false);
  ExpectFailure(directory_, absl::StatusCode::kInvalidArgument, "'lm_head.weight' is missing");
  WriteTextFile(directory_ / "config.json", kTinyConfig);
  WriteTextFile(directory_ / "generation_config.json", "{\"eos_token_id\":99}");
  ExpectFailure(directory_, absl::StatusCode::kInvalidArgument, "eos_token_id");
}

TEST_F(SourceModelTest, OpensAGgufFileAsTheHuggingFaceModelItCameFrom) {
  const ModelConfig config = ModelConfig::FromHfJson(kTinyConfig).value();
  GgufBuilder builder = TinyGgufKeys("llama");
  AddTensors(builder, config, /*interleave=*/true);
  WriteTextFile(directory_ / "model.gguf", builder.Build());
  auto model = SourceModel::Open(directory_ / "model.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& read = (*model)->config();
  EXPECT_EQ(read.architecture, "LlamaForCausalLM");
  EXPECT_EQ(read.vocab_size, 24u);
  EXPECT_EQ(read.hidden_size, 48u);
  EXPECT_EQ(read.head_dim, 8u);
  EXPECT_EQ(read.num_kv_heads, 2u);
  EXPECT_EQ(read.rms_norm_eps, double{1e-5f});
  EXPECT_TRUE(read.tie_word_embeddings);
  EXPECT_EQ(read.bos_token_id, 1);
  EXPECT_THAT(read.eos_token_ids, ElementsAre(2, 5));
  for (const auto& [name, values] : TinyTensors(config)) {
    EXPECT_EQ((*model)->ReadFloats(name).value(), values) << name;
  }
  EXPECT_EQ((*model)->Digest().value(), Sha256::Of(AsBytes(builder.Build())));
}

TEST_F(SourceModelTest, Qwen2GgufHasBiasesAndRowsInOrder) {
  json root = json::parse(kTinyConfig);
  root["architectures"] = {"Qwen2ForCausalLM"};
  root["tie_word_embeddings"] = false;
  const ModelConfig config = ModelConfig::FromHfJson(root.dump()).value();
  GgufBuilder builder = TinyGgufKeys("qwen2");
  AddTensors(builder, config, /*interleave=*/false);
  WriteTextFile(directory_ / "model.gguf", builder.Build());
  auto model = SourceModel::Open(directory_ / "model.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_FALSE((*model)->config().tie_word_embeddings);
  EXPECT_TRUE((*model)->config().attention_bias);
  for (const auto& [name, values] : TinyTensors(config)) {
    EXPECT_EQ((*model)->ReadFloats(name).value(), values) << name;
  }
}

TEST_F(SourceModelTest, RejectsGgufThatContradictsItsMetadata) {
  const ModelConfig config = ModelConfig::FromHfJson(kTinyConfig).value();
  const auto path = directory_ / "model.gguf";
  auto write = [&](GgufBuilder builder, bool tensors = true) {
    if (tensors) AddTensors(builder, config, true);
    WriteTextFile(path, builder.Build());
  };
  write(TinyGgufKeys("llama"), /*tensors=*/false);
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'token_embd.weight' is missing");
  write(GgufBuilder().String("general.architecture", "falcon"));
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'falcon'");
  write(GgufBuilder());
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'general.architecture' is missing");
  write(TinyGgufKeys("llama").U32("llama.expert_count", 8));
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'llama.expert_count'");
  write(TinyGgufKeys("llama").U32("llama.rope.dimension_count", 4));
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'llama.rope.dimension_count'");
  write(TinyGgufKeys("llama").U32("llama.attention.key_length", 16));
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "has shape");
  write(TinyGgufKeys("llama").String("llama.rope.scaling.type", "yarn"));
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'yarn'");
  write(TinyGgufKeys("llama").U32("tokenizer.ggml.eom_token_id", 24));
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'tokenizer.ggml.eom_token_id'");
  GgufBuilder extra = TinyGgufKeys("llama");
  extra.FloatTensor("blk.0.attn_q.bias", {48}, std::vector<float>(48));
  write(extra);
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, "'blk.0.attn_q.bias'");
}

// Llama 3.2's published parameters and the divisors that the converter computes from them.
std::vector<float> Llama3Divisors(double factor, double theta, int head_dim) {
  std::vector<float> divisors;
  for (int i = 0; i < head_dim; i += 2) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, double(i) / head_dim);
    if (wavelength < 8192 / 4.0) {
      divisors.push_back(1);
    } else if (wavelength > 8192) {
      divisors.push_back(static_cast<float>(factor));
    } else {
      const double smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0);
      divisors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }
  return divisors;
}

TEST_F(SourceModelTest, GgufRopeScalingIsReadFromDivisorsAndFromKeys) {
  const ModelConfig config = ModelConfig::FromHfJson(kTinyConfig).value();
  const auto path = directory_ / "model.gguf";
  GgufBuilder keys = TinyGgufKeys("llama", 500000);
  std::vector<float> divisors = Llama3Divisors(8, 500000, 8);
  GgufBuilder llama3 = keys;
  llama3.FloatTensor(kGgufRopeFactors, {4}, divisors);
  AddTensors(llama3, config, true);
  WriteTextFile(path, llama3.Build());
  auto model = SourceModel::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config().rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ((*model)->config().rope_scaling.factor, 8.0);

  divisors[0] = 2;
  GgufBuilder wrong = keys;
  wrong.FloatTensor(kGgufRopeFactors, {4}, divisors);
  AddTensors(wrong, config, true);
  WriteTextFile(path, wrong.Build());
  ExpectFailure(path, absl::StatusCode::kInvalidArgument, kGgufRopeFactors);

  GgufBuilder linear = keys;
  linear.String("llama.rope.scaling.type", "linear").F32("llama.rope.scaling.factor", 4.0f);
  AddTensors(linear, config, true);
  WriteTextFile(path, linear.Build());
  model = SourceModel::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config().rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ((*model)->config().rope_scaling.factor, 4.0);
}

TEST(SourceModel, OpensTheDemonstrationModel) {
  const char* path = std::getenv("QUANTLOOM_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "QUANTLOOM_TEST_MODEL names no SmolLM2 GGUF file";
  auto model = SourceModel::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& config = (*model)->config();
  EXPECT_EQ(config.num_layers, 30u);
  EXPECT_EQ(config.hidden_size, 576u);
  EXPECT_EQ(config.num_heads, 9u);
  EXPECT_EQ(config.head_dim, 64u);
  EXPECT_EQ(config.vocab_size, 49152u);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ((*model)->ReadFloats("model.layers.29.mlp.down_proj.weight").value().size(),
            576u * 1536u);
}

}  // namespace
}  // namespace quantloom
