// Whole tiny models on the emulated CUDA device: logits against the CPU's, the same bits in any
// batch and chunking, what a step costs, and what comes of a device that fails.
#include "engine/model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/generation.h"
#include "engine/kv_cache.h"
#include "engine/loaded_model.h"
#include "engine/quantize/quantize_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

using cuda_emulation::EmulatedDevice;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;
using testing::TinyConfig;

std::vector<int32_t> Tokens(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = 1 + static_cast<int32_t>(random() % 256);
  return tokens;
}

// The tiny model packed with a recipe, once in a process.
const std::filesystem::path& Packed(const std::string& recipe) {
  static const auto* const directory = new TemporaryDirectory();
  static auto* const packed = new std::map<std::string, std::filesystem::path>();
  std::filesystem::path& path = (*packed)[recipe];
  if (!path.empty()) return path;
  path = directory->path() / absl::StrCat("model", packed->size());
  const std::filesystem::path source = directory->path() / "source";
  if (!std::filesystem::exists(source)) testing::WriteTinyModel(source, 42);
  QuantizeOptions options;
  options.source = source;
  options.recipe = recipe;
  options.calibration_tokens = 0;
  ThreadTeam team(2);
  const auto result = QuantizeModel(
      options, path, team, [](const auto&) {}, [] { return false; });
  EXPECT_TRUE(result.ok()) << result.status();
  return path;
}

std::shared_ptr<const LoadedModel> Load(const std::string& recipe, const Device& device,
                                        ThreadTeam& team) {
  auto loaded = LoadedModel::LoadPacked(Packed(recipe), Verify::kHeader, device, team);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *loaded : nullptr;
}

using Logits = std::vector<std::vector<float>>;

// Runs a sequence in steps of the given lengths, in turn, another one's tokens beside it where
// asked, and returns the logits of every position.
Logits InSteps(const Model& model, const std::vector<int32_t>& tokens,
               const std::vector<size_t>& steps, bool with_other) {
  auto kv = KvCache::Create(model.backend(), model.config(), 2048, 16, KvElement::kF16).value();
  auto workspace = model.CreateWorkspace(tokens.size() + 1, tokens.size());
  const std::vector<int32_t> other = Tokens(tokens.size(), 99);
  BlockTable blocks, other_blocks;
  Logits out;
  for (size_t begin = 0, i = 0; begin < tokens.size(); ++i) {
    const size_t count = std::min(steps[i % steps.size()], tokens.size() - begin);
    RaggedBatch batch;
    if (with_other) {
      kv->blocks().Cover(i + 1, other_blocks);
      batch.Add({&other[i], 1}, static_cast<uint32_t>(i), other_blocks);
    }
    std::vector<uint32_t> rows(count);
    for (uint32_t& row : rows) {
      row = static_cast<uint32_t>(batch.size() + static_cast<size_t>(&row - rows.data()));
    }
    kv->blocks().Cover(begin + count, blocks);
    batch.Add({&tokens[begin], count}, static_cast<uint32_t>(begin), blocks);
    const auto logits = model.Step(batch, rows, kv->storage(), *workspace);
    EXPECT_TRUE(logits.ok()) << logits.status();
    if (!logits.ok()) return {};
    const size_t vocab = model.config().vocab_size;
    for (size_t row = 0; row < count; ++row) {
      out.emplace_back(logits->begin() + row * vocab, logits->begin() + (row + 1) * vocab);
    }
    begin += count;
  }
  return out;
}

struct RecipeCase {
  const char* name;
  const char* recipe;
  // Relative error of a product for what its activations lose on the device and on the CPU, root
  // mean square. int8 with the scale of m normal values: E[max] / 127 / sqrt(12), where E[max] is
  // 2.6 standard deviations for m = 128 (the device) and 1.8 for m = 16 (the CPU). fp16 loses at
  // most 2^-11, on the device alone, and the weights as much again.
  double device_error;
  double cpu_error;
};
constexpr double kDeviceInt8 = 2.6 / 127 / 3.46;
constexpr double kCpuInt8 = 1.8 / 127 / 3.46;

class CudaModelTest : public ::testing::TestWithParam<RecipeCase> {};

TEST_P(CudaModelTest, LogitsAreTheCpusButForRoundingActivations) {
  const RecipeCase& test = GetParam();
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const auto cpu = OpenCpu().value();
  const std::vector<int32_t> tokens = Tokens(40, 7);
  const auto on_cpu = Load(test.recipe, *cpu, team);
  const auto on_cuda = Load(test.recipe, cuda, team);
  ASSERT_TRUE(on_cpu != nullptr && on_cuda != nullptr);
  const Logits expected = InSteps(on_cpu->model(), tokens, {40}, false);
  const Logits actual = InSteps(on_cuda->model(), tokens, {40}, false);
  ASSERT_EQ(actual.size(), expected.size());
  double difference = 0, size = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (size_t v = 0; v < expected[t].size(); ++v) {
      difference += std::pow(double{actual[t][v]} - expected[t][v], 2);
      size += std::pow(expected[t][v], 2);
    }
  }
  // Errors of products are independent, so their squares add: of a branch those of its two products
  // (q and k reach the result through a softmax, gate and up are multiplied: one more each), of all
  // branches, and of the head. The head and, looked up, the embedding have 8 bits in every recipe.
  // Nothing amplifies a relative error of the residual stream, since branches add to it and norms
  // keep ratios; twice that leaves room for values that are not normal.
  const auto branches = static_cast<double>(2 * TinyConfig().num_layers);
  const double of_products =
      (std::pow(test.device_error, 2) + std::pow(test.cpu_error, 2)) * 3 * branches;
  const double of_head = std::pow(kDeviceInt8, 2) + std::pow(kCpuInt8, 2);
  EXPECT_LE(std::sqrt(difference / size), 2 * std::sqrt(of_products + of_head));
  EXPECT_GT(size, 0);
}

TEST_P(CudaModelTest, LogitsAreTheSameBitsInAnyBatchAndChunkingRecordedOrNot) {
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const auto loaded = Load(GetParam().recipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const std::vector<int32_t> tokens = Tokens(80, 3);
  // More rows than are recorded.
  const Logits expected = InSteps(loaded->model(), tokens, {80}, false);
  EXPECT_EQ(cuda.runtime().counts().graph_launches, 0);
  EXPECT_EQ(InSteps(loaded->model(), tokens, {1}, false), expected);
  EXPECT_GT(cuda.runtime().counts().graph_launches, 70);
  EXPECT_EQ(InSteps(loaded->model(), tokens, {1, 5, 2}, true), expected);
  EXPECT_EQ(InSteps(loaded->model(), tokens, {17}, true), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Recipes, CudaModelTest,
    ::testing::Values(RecipeCase{"Icquant2", "icquant:bits=2", kDeviceInt8, kCpuInt8},
                      RecipeCase{"Icquant8", "icquant:bits=8,inner=rtn,outliers=0", kDeviceInt8,
                                 kCpuInt8},
                      RecipeCase{"Qtip2", "qtip:bits=2", kDeviceInt8, kCpuInt8},
                      RecipeCase{"Quip2", "quip:bits=2", kDeviceInt8, kCpuInt8}),
    [](const auto& test) { return std::string(test.param.name); });

constexpr char kRecipe[] = "icquant:bits=2";

TEST(CudaModel, ContextsOfSeveralPartitionsAreTheSameInAnyChunking) {
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const std::vector<int32_t> tokens = Tokens(290, 5);
  const Logits expected = InSteps(loaded->model(), tokens, {290}, false);
  EXPECT_EQ(InSteps(loaded->model(), tokens, {60}, false), expected);
}

TEST(CudaModel, ADecodeStepIsOneGraphAndOneSynchronizationAndAllocatesNothing) {
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const Model& model = loaded->model();
  auto kv = KvCache::Create(model.backend(), model.config(), 256, 16, KvElement::kF16).value();
  auto workspace = model.CreateWorkspace(8, 4);
  const std::vector<int32_t> tokens = Tokens(40, 1);
  BlockTable first, second;
  for (uint32_t step = 0; step < 20; ++step) {
    const auto before = cuda.runtime().counts();
    kv->blocks().Cover(step + 1, first);
    kv->blocks().Cover(step + 1, second);
    RaggedBatch batch;
    batch.Add({&tokens[step], 1}, step, first);
    batch.Add({&tokens[20 + step], 1}, step, second);
    ASSERT_TRUE(model.Step(batch, {0, 1}, kv->storage(), *workspace).ok());
    if (step < 2) continue;
    const auto after = cuda.runtime().counts();
    EXPECT_EQ(after.allocations, before.allocations) << step;
    EXPECT_EQ(after.synchronizations - before.synchronizations, 1) << step;
    EXPECT_EQ(after.graph_launches - before.graph_launches, 1) << step;
    // Copies of batch, block tables, selection, angles and logits, their events, and little else:
    // no kernel is launched by itself.
    EXPECT_LE(after.calls - before.calls, 18) << step;
    EXPECT_GT(model.StepTime(*workspace), absl::ZeroDuration());
  }
}

// --- Memory that ends, and a device that fails.

TEST(CudaModel, TooLittleMemoryIsNamedWhenTheModelIsLoaded) {
  ThreadTeam team(1);
  const EmulatedDevice cuda(64000);
  const absl::Status status =
      LoadedModel::LoadPacked(Packed(kRecipe), Verify::kHeader, cuda, team).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("of the 64000 of emulation are available"));
}

TEST(CudaModel, TooLittleMemoryIsNamedWhenTheKvCacheIsMade) {
  ThreadTeam team(1);
  const EmulatedDevice cuda(1 << 20);
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const auto engine = GenerationEngine::Create(loaded, {.kv_tokens = 1 << 20});
  EXPECT_TRUE(absl::IsResourceExhausted(engine.status())) << engine.status();
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("KV cache: asked for"));
}

TEST(CudaModel, RefusesAnFp32KvCache) {
  ThreadTeam team(1);
  const EmulatedDevice cuda;
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const auto kv = KvCache::Create(loaded->model().backend(), TinyConfig(), 64, 16, KvElement::kF32);
  EXPECT_TRUE(absl::IsUnimplemented(kv.status())) << kv.status();
}

// Greedy tokens of requests that run at the same time.
std::vector<std::vector<int32_t>> Generate(GenerationEngine& engine,
                                           const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<std::vector<int32_t>> generated(prompts.size());
  std::vector<std::promise<absl::Status>> ends(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    GenerationRequest request;
    request.prompt = prompts[i];
    request.max_tokens = 8;
    request.ignore_eos = true;
    const auto stream = engine.Submit(request, [&, i](const GenerationEvent& event) {
      if (event.token) generated[i].push_back(*event.token);
      if (event.last()) ends[i].set_value(event.status);
    });
    EXPECT_TRUE(stream.ok()) << stream.status();
  }
  for (auto& end : ends) {
    const absl::Status status = end.get_future().get();
    EXPECT_TRUE(status.ok()) << status;
  }
  return generated;
}

TEST(CudaModel, RequestsGetTheSameTokensAloneTogetherAndWithSharedPrefixes) {
  ThreadTeam team(1);
  const EmulatedDevice cuda;
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  std::vector<std::vector<int32_t>> prompts = {Tokens(20, 1), Tokens(3, 2), Tokens(33, 3)};
  prompts.push_back(prompts[0]);
  prompts.back().resize(18);
  prompts.back().push_back(7);
  std::vector<std::vector<int32_t>> alone;
  for (const auto& prompt : prompts) {
    const auto engine = GenerationEngine::Create(loaded, {.prefix_cache = false}).value();
    alone.push_back(Generate(*engine, {prompt})[0]);
  }
  // Blocks are short, shared and copied; too few, so that somebody has to give way.
  const auto engine =
      GenerationEngine::Create(
          loaded, {.max_running = 3, .prefill_chunk = 7, .kv_tokens = 80, .kv_block_tokens = 8})
          .value();
  EXPECT_EQ(Generate(*engine, prompts), alone);
  EXPECT_EQ(Generate(*engine, prompts), alone);
  EXPECT_GT(engine->stats().prefix_hit_tokens, 0);
}

// Generates with two requests on a device that fails after so many calls. Nothing may hang or
// crash; who has no answer gets a status.
void GenerateOnFailingDevice(uint64_t calls, bool* failed) {
  SCOPED_TRACE(absl::StrCat("after ", calls, " calls"));
  ThreadTeam team(1);
  EmulatedDevice cuda;
  cuda.FailAfter(calls);
  const auto loaded = LoadedModel::LoadPacked(Packed(kRecipe), Verify::kHeader, cuda, team);
  *failed = true;
  if (!loaded.ok()) {
    EXPECT_TRUE(absl::IsInternal(loaded.status())) << loaded.status();
    return;
  }
  std::atomic<int> failures = 0;
  auto engine = GenerationEngine::Create(*loaded, {.max_running = 2, .kv_tokens = 64},
                                         [&](const absl::Status& status) {
                                           EXPECT_TRUE(absl::IsInternal(status)) << status;
                                           ++failures;
                                         });
  if (!engine.ok()) {
    EXPECT_TRUE(absl::IsInternal(engine.status())) << engine.status();
    return;
  }
  std::vector<std::promise<absl::Status>> ends(2);
  for (uint32_t i = 0; i < ends.size(); ++i) {
    GenerationRequest request;
    request.prompt = Tokens(3, i);
    request.max_tokens = 4;
    request.ignore_eos = true;
    const auto stream = (*engine)->Submit(request, [&end = ends[i]](const GenerationEvent& event) {
      if (event.last()) end.set_value(event.status);
    });
    if (!stream.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(stream.status())) << stream.status();
      ends[i].set_value(stream.status());
    }
  }
  *failed = false;
  for (auto& end : ends) {
    const absl::Status status = end.get_future().get();
    if (status.ok()) continue;
    *failed = true;
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("injected"));
  }
  EXPECT_EQ(failures, *failed ? 1 : 0);
  if (!*failed) return;
  GenerationRequest request;
  request.prompt = {1};
  EXPECT_TRUE(absl::IsUnavailable((*engine)->Submit(request, [](const auto&) {}).status()));
}

TEST(CudaModel, ADeviceThatFailsAnywhereEndsRequestsAndNeverHangs) {
  bool failed = true;
  uint64_t calls = 0;
  // Every call of the first few, then further apart; until it fails so late that nothing does.
  for (; failed; calls += calls < 20 ? 1 : 13) {
    ASSERT_LT(calls, 20000);
    GenerateOnFailingDevice(calls, &failed);
  }
  EXPECT_GT(calls, 200);
}

}  // namespace
}  // namespace quantloom
