// Writes a packed model of random weights, with the shapes of a known one or others: a model to
// time where no download and no hours of quantization are wanted. What it generates means nothing.
//
//   random_model --shape llama-3.2-1b --recipe icquant:bits=2 directory

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "bench/random_weights.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "core/format/model_config.h"
#include "core/format/packed_model.h"
#include "nlohmann/json.hpp"

namespace quantloom {
namespace {

using nlohmann::json;

struct Shape {
  uint64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab;
};

// Llama-3.2-1B has the vocabulary of SmolLM2 here, so that its head weighs in a step what it does
// in models of that size with tens of thousands of tokens.
const std::map<std::string, Shape> kShapes = {
    {"llama-3.2-1b", {2048, 8192, 16, 32, 8, 64, 49152}},
    {"smollm2-135m", {576, 1536, 30, 9, 3, 64, 49152}},
};

struct Options {
  std::string directory;
  std::string shape = "llama-3.2-1b";
  std::string recipe = "icquant:bits=2";
  std::string embedding_recipe = "icquant:bits=8";
  std::map<std::string, uint64_t> sizes;  // given apart, by option
};

ModelConfig MakeConfig(const Options& options) {
  const Shape& shape = kShapes.at(options.shape);
  auto size = [&options](const char* name, uint64_t otherwise) {
    const auto it = options.sizes.find(name);
    return it == options.sizes.end() ? otherwise : it->second;
  };
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.vocab_size = size("--vocab", shape.vocab);
  config.hidden_size = size("--hidden", shape.hidden);
  config.intermediate_size = size("--intermediate", shape.intermediate);
  config.num_layers = size("--layers", shape.layers);
  config.num_heads = size("--heads", shape.heads);
  config.num_kv_heads = size("--kv-heads", shape.kv_heads);
  config.head_dim = size("--head-dim", shape.head_dim);
  config.max_position = 8192;
  config.tie_word_embeddings = true;
  config.bos_token_id = 0;
  config.eos_token_ids = {0};
  return config;
}

// The smallest that the loader takes: one token. The model's others have no spelling.
std::map<std::string, std::string> TokenizerFiles() {
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const json tokenizer = {
      {"version", "1.0"},
      {"added_tokens", json::array()},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", json::array()}}}};
  return {{"tokenizer.json", tokenizer.dump()}};
}

absl::Status Write(const Options& options) {
  const ModelConfig config = MakeConfig(options);
  QL_RETURN_IF_ERROR(config.Validate());
  ThreadTeam team;
  QL_ASSIGN_OR_RETURN(const auto linear, RandomWeights::Create(options.recipe));
  QL_ASSIGN_OR_RETURN(const auto embedding, RandomWeights::Create(options.embedding_recipe));
  QL_ASSIGN_OR_RETURN(const auto writer, PackedModelWriter::Open(options.directory, {}));
  if (writer->finished() != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("'", options.directory, "' holds a model"));
  }
  for (const TensorSpec& tensor : ModelTensors(config)) {
    if (tensor.role == TensorSpec::Role::kNorm) {
      QL_RETURN_IF_ERROR(writer->AddRaw(tensor.name, tensor.shape, DType::kF32,
                                        std::vector<float>(tensor.shape[0], 1.0f)));
      continue;
    }
    RandomWeights& matrices = tensor.role == TensorSpec::Role::kLinear ? *linear : *embedding;
    QL_ASSIGN_OR_RETURN(const auto encoded, matrices.Make(tensor.shape[0], tensor.shape[1], team));
    QL_RETURN_IF_ERROR(
        writer->AddEncoded(tensor.name, tensor.shape[0], tensor.shape[1], *encoded, ""));
  }
  PackedManifest manifest;
  manifest.recipe = linear->recipe();
  manifest.source_sha256 = std::string(64, '0');  // there is no source
  QL_ASSIGN_OR_RETURN(manifest, writer->Finish(config, TokenizerFiles(), std::move(manifest)));
  std::printf("%s: %.1f MB, %.3f bits per linear weight\n", options.directory.c_str(),
              static_cast<double>(manifest.packed_bytes) / 1e6, manifest.linear_bits_per_weight);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Writes a packed model of random weights");
  app.add_option("directory", options.directory, "where to; it is created")->required();
  app.add_option("--shape", options.shape, "llama-3.2-1b or smollm2-135m")
      ->check(CLI::IsMember(kShapes))
      ->capture_default_str();
  app.add_option("--recipe", options.recipe, "of the linear layers")->capture_default_str();
  app.add_option("--embedding-recipe", options.embedding_recipe,
                 "of embedding and head, one matrix")
      ->capture_default_str();
  for (const char* name : {"--hidden", "--intermediate", "--layers", "--heads", "--kv-heads",
                           "--head-dim", "--vocab"}) {
    app.add_option_function<uint64_t>(
           name, [&options, name](uint64_t value) { options.sizes[name] = value; },
           "instead of the shape's")
        ->check(CLI::Range(1, 1 << 20));
  }
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Write(options);
  if (!status.ok()) std::fprintf(stderr, "random_model: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) { return quantloom::Main(argc, argv); }
