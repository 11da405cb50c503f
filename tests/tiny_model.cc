#include "tests/tiny_model.h"

#include <cmath>
#include <random>

#include "core/base/file.h"
#include "core/format/safetensors_writer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quantloom::testing {
namespace {

using nlohmann::json;

constexpr char kEndOfText[] = "<|endoftext|>";
constexpr char kChatTemplate[] =
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";

std::string Utf8(uint32_t code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

// GPT-2's byte-level alphabet: printable bytes stand for themselves, the others are moved to 256
// and up in order.
std::vector<std::string> ByteAlphabet() {
  std::vector<std::string> spellings(256);
  uint32_t moved = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    spellings[byte] = Utf8(printable ? byte : moved++);
  }
  return spellings;
}

// Token 0 is the end of text, 1 .. 256 the bytes, then a few merges, then unused spellings.
json TinyTokenizer(uint64_t vocab_size) {
  json vocab = {{kEndOfText, 0}};
  const std::vector<std::string> bytes = ByteAlphabet();
  for (size_t byte = 0; byte < bytes.size(); ++byte) vocab[bytes[byte]] = byte + 1;
  const std::string space = bytes[' '];
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"t", "h"}, {"th", "e"}, {space, "a"}, {"i", "n"}, {space, "the"}, {"e", "r"}};
  json merges = json::array();
  for (const auto& [left, right] : pairs) {
    vocab[left + right] = vocab.size();
    merges.push_back(left + " " + right);
  }
  while (vocab.size() < vocab_size)
    vocab["<unused" + std::to_string(vocab.size()) + ">"] = vocab.size();
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", 0},
             {"content", kEndOfText},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", merges}}}};
}

void Write(const std::filesystem::path& path, const std::string& contents) {
  const absl::Status status = WriteFileAtomically(path, contents);
  ASSERT_TRUE(status.ok()) << status;
}

}  // namespace

ModelConfig TinyConfig() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.vocab_size = 272;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_position = 512;
  config.tie_word_embeddings = true;
  config.bos_token_id = 0;
  config.eos_token_ids = {0};
  return config;
}

std::map<std::string, std::vector<float>> TinyWeights(const ModelConfig& config, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::map<std::string, std::vector<float>> weights;
  for (const TensorSpec& tensor : ModelTensors(config)) {
    const uint64_t cols = tensor.shape.back();
    const uint64_t size = tensor.shape.size() == 2 ? tensor.shape[0] * cols : cols;
    const bool norm = tensor.role == TensorSpec::Role::kNorm;
    const bool table =
        tensor.role == TensorSpec::Role::kEmbedding || tensor.role == TensorSpec::Role::kHead;
    const double deviation = norm ? 0.1 : (table ? 3 : 1) / std::sqrt(static_cast<double>(cols));
    std::normal_distribution<double> normal(norm ? 1 : 0, deviation);
    std::vector<float>& values = weights[tensor.name];
    values.resize(size);
    for (float& value : values) value = static_cast<float>(normal(random));
  }
  return weights;
}

void WriteTensors(const std::filesystem::path& path, const ModelConfig& config,
                  const std::map<std::string, std::vector<float>>& values) {
  std::vector<SafetensorsSpec> specs;
  for (const TensorSpec& tensor : ModelTensors(config)) {
    specs.push_back({tensor.name, DType::kF32, tensor.shape});
  }
  auto writer = SafetensorsWriter::Create(path, specs, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const SafetensorsSpec& spec : specs) {
    const std::vector<float>& tensor = values.at(spec.name);
    const auto* bytes = reinterpret_cast<const uint8_t*>(tensor.data());
    ASSERT_TRUE((*writer)->Append({bytes, tensor.size() * sizeof(float)}).ok());
  }
  ASSERT_TRUE((*writer)->Close().ok());
}

void WriteTinyModel(const std::filesystem::path& directory, uint64_t seed,
                    const ModelConfig& config) {
  std::filesystem::create_directories(directory);
  Write(directory / "config.json", config.ToHfJson(""));
  WriteTensors(directory / "model.safetensors", config, TinyWeights(config, seed));
  Write(directory / "tokenizer.json", TinyTokenizer(config.vocab_size).dump());
  const json tokenizer_config = {
      {"bos_token", kEndOfText}, {"eos_token", kEndOfText}, {"chat_template", kChatTemplate}};
  Write(directory / "tokenizer_config.json", tokenizer_config.dump());
}

}  // namespace quantloom::testing
