#include "engine/model.h"

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "engine/cpu_backend.h"
#include "engine/loaded_model.h"
#include "engine/window_runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/logits_in_chunks.h"
#include "tests/engine/reference_model.h"
#include "tests/kernels/lossless_matrix.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

using testing::LogitsInChunks;
using testing::TemporaryDirectory;
using testing::TinyConfig;

std::vector<int32_t> Tokens(size_t n, uint32_t vocab) {
  std::vector<int32_t> tokens(n);
  for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<int32_t>((i * i * 31 + 7 * i + 3) % vocab);
  return tokens;
}

std::shared_ptr<const LoadedModel> Load(const ModelConfig& config, uint64_t seed,
                                        ThreadTeam& team) {
  TemporaryDirectory directory;
  testing::WriteTinyModel(directory.path(), seed, config);
  auto loaded = LoadedModel::LoadSource(directory.path(), team);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *loaded : nullptr;
}

struct ArchitectureCase {
  std::string name;
  ModelConfig config;
};

std::vector<ArchitectureCase> Architectures() {
  std::vector<ArchitectureCase> cases = {{"LlamaTied", TinyConfig()}};
  const auto add = [&](const std::string& name, auto change) {
    ModelConfig config = TinyConfig();
    change(config);
    cases.push_back({name, config});
  };
  add("LlamaUntied", [](ModelConfig& c) { c.tie_word_embeddings = false; });
  add("MistralWithoutGrouping", [](ModelConfig& c) {
    c.architecture = "MistralForCausalLM";
    c.model_type = "mistral";
    c.num_kv_heads = c.num_heads;
  });
  add("Qwen2Biases", [](ModelConfig& c) {
    c.architecture = "Qwen2ForCausalLM";
    c.model_type = "qwen2";
    c.attention_bias = true;
    c.rms_norm_eps = 1e-6;
  });
  add("Qwen3QkNormWideHeads", [](ModelConfig& c) {
    c.architecture = "Qwen3ForCausalLM";
    c.model_type = "qwen3";
    c.qk_norm = true;
    c.head_dim = 32;  // num_heads * head_dim is twice the hidden size
  });
  add("OddSizes", [](ModelConfig& c) {
    c.hidden_size = 50;
    c.intermediate_size = 70;
    c.num_heads = 3;
    c.num_kv_heads = 1;
    c.head_dim = 10;
  });
  add("LinearRope", [](ModelConfig& c) {
    c.rope_scaling.type = RopeScaling::Type::kLinear;
    c.rope_scaling.factor = 4;
  });
  add("Llama3Rope", [](ModelConfig& c) {
    c.rope_scaling = {RopeScaling::Type::kLlama3, 8, 1, 4, 64};  // all three ranges occur
    c.rope_theta = 100;
  });
  return cases;
}

class ModelArchitecture : public ::testing::TestWithParam<ArchitectureCase> {};

TEST_P(ModelArchitecture, LogitsAgreeWithADoublePrecisionReference) {
  const ModelConfig& config = GetParam().config;
  ThreadTeam team(2);
  const auto loaded = Load(config, 11, team);
  ASSERT_NE(loaded, nullptr);
  const auto tokens = Tokens(70, config.vocab_size);
  const auto expected = testing::ReferenceLogits(config, testing::TinyWeights(config, 11), tokens);
  auto runner = WindowRunner::Create(loaded->model(), tokens.size(), KvElement::kF32).value();
  ASSERT_TRUE(runner->Forward(tokens).ok());
  const absl::Status visited =
      runner->VisitLogits(0, tokens.size(), [&](size_t position, absl::Span<const float> logits) {
        ASSERT_EQ(logits.size(), config.vocab_size);
        for (size_t v = 0; v < logits.size(); ++v)
          ASSERT_NEAR(logits[v], expected[position][v], 2e-4) << position << ", " << v;
      });
  EXPECT_TRUE(visited.ok()) << visited;
}

INSTANTIATE_TEST_SUITE_P(, ModelArchitecture, ::testing::ValuesIn(Architectures()),
                         [](const auto& test) { return test.param.name; });

TEST(Model, LogitsAreTheSameBitsInAnyBatchChunkingAndNumberOfThreads) {
  TemporaryDirectory directory;
  testing::WriteTinyModel(directory.path(), 5);
  const auto tokens = Tokens(60, TinyConfig().vocab_size);
  for (const KvElement element : {KvElement::kF16, KvElement::kF32}) {
    std::vector<std::vector<float>> expected;
    for (const int threads : {1, 2, 3}) {
      ThreadTeam team(threads);
      auto loaded = LoadedModel::LoadSource(directory.path(), team);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      const Model& model = (*loaded)->model();
      if (expected.empty()) expected = LogitsInChunks(model, element, tokens, {60}, false);
      for (const std::vector<size_t>& chunks :
           std::vector<std::vector<size_t>>{{60}, {1}, {7}, {1, 5, 3, 17}, {32, 1}}) {
        EXPECT_EQ(LogitsInChunks(model, element, tokens, chunks, false), expected);
        EXPECT_EQ(LogitsInChunks(model, element, tokens, chunks, true), expected);
      }
    }
  }
}

// An embedding that passed incoherence processing, and nothing else.
class EmbeddingAlone final : public WeightSource {
 public:
  EmbeddingAlone(Backend& backend, const IncoherenceOptions& options)
      : backend_(backend), options_(options) {}
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Matrix(const std::string& name, uint64_t rows,
                                                       uint64_t cols) override {
    if (name != "model.embed_tokens.weight") return absl::NotFoundError(name);
    return backend_.MatrixFromPacked(RandomLossless(rows, cols, 1, options_), MatrixUse::kRows);
  }
  absl::StatusOr<std::unique_ptr<DeviceVector>> Vector(const std::string& name, uint64_t) override {
    return absl::NotFoundError(name);
  }

 private:
  Backend& backend_;
  IncoherenceOptions options_;
};

TEST(Model, RefusesAnEmbeddingWhoseOutputsWereTransformed) {
  ThreadTeam team(1);
  const auto backend = CreateCpuBackend(team).value();
  EmbeddingAlone two_sided(*backend, {.kind = IncoherenceKind::kTwoSided});
  const absl::Status refused = Model::Create(TinyConfig(), two_sided, *backend).status();
  EXPECT_TRUE(absl::IsUnimplemented(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("model.embed_tokens.weight"));
  // One whose inputs alone were is taken: the next tensor is missed.
  EmbeddingAlone input_side(*backend, {.kind = IncoherenceKind::kInput});
  const absl::Status taken = Model::Create(TinyConfig(), input_side, *backend).status();
  EXPECT_TRUE(absl::IsNotFound(taken)) << taken;
}

TEST(WindowRunner, RejectsWhatDoesNotFit) {
  ThreadTeam team(1);
  const auto loaded = Load(TinyConfig(), 1, team);
  ASSERT_NE(loaded, nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(
      WindowRunner::Create(loaded->model(), 513, KvElement::kF16).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(WindowRunner::Create(loaded->model(), 0, KvElement::kF16).status()));
  auto runner = WindowRunner::Create(loaded->model(), 4, KvElement::kF16).value();
  EXPECT_TRUE(absl::IsInvalidArgument(runner->Forward({})));
  EXPECT_TRUE(absl::IsInvalidArgument(runner->Forward({1, 2, 3, 4, 5})));
  EXPECT_TRUE(absl::IsInvalidArgument(runner->Forward({272})));
  EXPECT_TRUE(absl::IsInvalidArgument(runner->Forward({-1})));
  EXPECT_TRUE(runner->Forward({0, 271}).ok());
}

TEST(LoadSource, NamesWhatIsMissing) {
  ThreadTeam team(1);
  TemporaryDirectory directory;
  EXPECT_TRUE(absl::IsNotFound(LoadedModel::LoadSource(directory.path() / "none", team).status()));
  testing::WriteTinyModel(directory.path(), 1);
  std::filesystem::remove(directory.path() / "tokenizer.json");
  const absl::Status status = LoadedModel::LoadSource(directory.path(), team).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("tokenizer.json"));
}

TEST(LoadSource, EncodesPromptsAndRendersChats) {
  ThreadTeam team(1);
  const auto loaded = Load(TinyConfig(), 1, team);
  ASSERT_NE(loaded, nullptr);
  EXPECT_EQ(loaded->EncodePrompt("<|endoftext|>!", /*parse_special=*/true),
            (std::vector<int32_t>{0, '!' + 1}));
  ASSERT_NE(loaded->chat_template(), nullptr) << loaded->chat_template_status();
  EXPECT_EQ(loaded->chat_template()->Render({{"user", "hi"}}, true).value(),
            "user: hi\nassistant: ");
}

}  // namespace
}  // namespace quantloom
