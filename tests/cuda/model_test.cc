// Whole tiny models on the emulated CUDA device: logits against the CPU's, the same bits in any
// batch and chunking, and what a step costs.
#include "engine/model.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/kv_cache.h"
#include "engine/loaded_model.h"
#include "engine/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/row_chain.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/cuda/emulation/execution.h"
#include "tests/packed_tiny_model.h"

namespace quantloom {
namespace {

using cuda_emulation::EmulatedDevice;
using ::testing::HasSubstr;
using testing::Load;
using testing::Packed;
using testing::TinyConfig;
using testing::Tokens;

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

// Root mean square of the difference, for the expected values'.
double RelativeDifference(const Logits& actual, const Logits& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double difference = 0, size = 0;
  for (size_t t = 0; t < std::min(actual.size(), expected.size()); ++t) {
    for (size_t v = 0; v < expected[t].size(); ++v) {
      difference += std::pow(double{actual[t][v]} - expected[t][v], 2);
      size += std::pow(expected[t][v], 2);
    }
  }
  EXPECT_GT(size, 0);
  return std::sqrt(difference / size);
}

// What is expected of it, at most, where products lose these relative errors on either side.
double DifferenceBound(double device_error, double cpu_error, double device_head_error) {
  // Errors of products are independent, so their squares add: of a branch those of its two products
  // (q and k reach the result through a softmax, gate and up are multiplied: one more each), of all
  // branches, and of the head. The head and, looked up, the embedding have 8 bits in every recipe.
  // Nothing amplifies a relative error of the residual stream, since branches add to it and norms
  // keep ratios; twice that leaves room for values that are not normal.
  const auto branches = static_cast<double>(2 * TinyConfig().num_layers);
  const double of_products = (std::pow(device_error, 2) + std::pow(cpu_error, 2)) * 3 * branches;
  const double of_head = std::pow(device_head_error, 2) + std::pow(kCpuInt8, 2);
  return 2 * std::sqrt(of_products + of_head);
}

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
  EXPECT_LE(RelativeDifference(actual, expected),
            DifferenceBound(test.device_error, test.cpu_error, kDeviceInt8));
}

TEST_P(CudaModelTest, APromptByADenseLibraryIsAsCloseAndDecodingIsAsBefore) {
  const RecipeCase& test = GetParam();
  ThreadTeam team(2);
  const EmulatedDevice fused;
  const EmulatedDevice dense(uint64_t{1} << 30, CudaPrefill::kCublas);
  const auto cpu = OpenCpu().value();
  const std::vector<int32_t> tokens = Tokens(kDenseLibraryRows, 7);
  const auto on_cpu = Load(test.recipe, *cpu, team);
  const auto on_fused = Load(test.recipe, fused, team);
  const auto on_dense = Load(test.recipe, dense, team);
  ASSERT_TRUE(on_cpu != nullptr && on_fused != nullptr && on_dense != nullptr);
  const Logits expected = InSteps(on_cpu->model(), tokens, {tokens.size()}, false);
  EXPECT_EQ(dense.dense()->products(), 0u);
  const Logits actual = InSteps(on_dense->model(), tokens, {tokens.size()}, false);
  // Seven matrices of each layer, and the head.
  EXPECT_EQ(dense.dense()->products(), 7 * TinyConfig().num_layers + 1);
  // Weights and activations lose at most 2^-11 each.
  constexpr double kHalves = 0x1p-11 * 1.5;
  EXPECT_LE(RelativeDifference(actual, expected),
            DifferenceBound(kHalves, test.cpu_error, kHalves));

  const std::vector<int32_t> few(tokens.begin(), tokens.begin() + 70);
  const Logits in_few = InSteps(on_dense->model(), few, {69, 1}, false);
  EXPECT_EQ(in_few, InSteps(on_fused->model(), few, {69, 1}, false));
  EXPECT_EQ(dense.dense()->products(), 7 * TinyConfig().num_layers + 1);
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

TEST(CudaModel, RowsTooWideForABlockArePassedFromKernelToKernel) {
  constexpr uint64_t kWide = 20480;  // 20 x 1024
  static_assert(kWide > cuda::kMostChainColumns);
  constexpr char kTransformed[] = "icquant:bits=2,inner=rtn,incoherence=two-sided";
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const auto cpu = OpenCpu().value();
  const auto on_cpu = Load(kTransformed, *cpu, team, kWide);
  const auto on_cuda = Load(kTransformed, cuda, team, kWide);
  ASSERT_TRUE(on_cpu != nullptr && on_cuda != nullptr);
  const std::vector<int32_t> tokens = Tokens(4, 7);
  const Logits actual = InSteps(on_cuda->model(), tokens, {4}, false);
  EXPECT_EQ(InSteps(on_cuda->model(), tokens, {1}, false), actual);
  EXPECT_LE(RelativeDifference(actual, InSteps(on_cpu->model(), tokens, {4}, false)),
            DifferenceBound(kDeviceInt8, kCpuInt8, kDeviceInt8));
}

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

// Kernels of a decode step whose tokens the device chooses.
uint64_t LaunchesOfAStep(const Model& model) {
  auto kv = KvCache::Create(model.backend(), model.config(), 64, 16, KvElement::kF16).value();
  auto workspace = model.CreateWorkspace(8, 4);
  const int32_t token = 1;
  BlockTable blocks;
  kv->blocks().Cover(1, blocks);
  RaggedBatch batch;
  batch.Add({&token, 1}, 0, blocks);
  const uint64_t before = cuda_emulation::Launches();
  const TokenChoice choice = {};
  model.StartStep(batch, {0}, {choice}, kv->storage(), *workspace);
  EXPECT_TRUE(model.FinishStep(0, *workspace).ok());
  return cuda_emulation::Launches() - before;
}

TEST(CudaModel, ADecodeStepLaunchesWhatLiesBetweenTwoProductsAtOnce) {
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const uint64_t layers = TinyConfig().num_layers;
  const auto plain = Load("icquant:bits=2", cuda, team);
  const auto transformed = Load("quip:bits=2", cuda, team);
  ASSERT_TRUE(plain != nullptr && transformed != nullptr);
  // Of a layer: 7 products and 4 times what prepares their inputs, positions, attention and its
  // merging. Then the embedding, the last sum, the head's input and product, the choice.
  EXPECT_EQ(LaunchesOfAStep(plain->model()), (7 + 4 + 3) * layers + 5);
  // Outputs of q, k, v and of gate, up; and where matrices were packed without calibration each has
  // a transform of its own for the input that it shares.
  EXPECT_EQ(LaunchesOfAStep(transformed->model()), (7 + 7 + 3 + 2) * layers + 5);
}

// The choice of a sequence's `draw`-th token: something of everything, greedy in between.
TokenChoice ChoiceOf(uint32_t draw) {
  static constexpr LogitEdit kEdits[] = {{3, 2.5f}, {7, -100.0f}};
  TokenChoice choice = {.random = UniformBits(5, draw), .edits = kEdits};
  if (draw % 3 != 0) choice.temperature = 1.5f;
  if (draw % 3 == 2) choice.top_p = 0.9f;
  return choice;
}

// Tokens after a prompt: `chosen` by the steps themselves, each step started on the one before's
// token before that is known to the host where the device can; or by the host from logits.
std::vector<int32_t> Continue(const Model& model, const std::vector<int32_t>& prompt,
                              uint32_t count, bool chosen) {
  auto kv = KvCache::Create(model.backend(), model.config(), 256, 16, KvElement::kF16).value();
  auto workspace = model.CreateWorkspace(64, 4);
  BlockTable blocks;
  kv->blocks().Cover(256, blocks);
  std::vector<int32_t> out;
  const auto finish = [&] {
    const auto result = model.FinishStep(0, *workspace);
    EXPECT_TRUE(result.ok() && result->chosen.size() == 1) << result.status();
    if (result.ok()) out.push_back(result->chosen[0].token);
  };
  std::vector<int32_t> next = prompt;
  uint32_t position = 0;
  for (uint32_t i = 0; i < count; ++i) {
    RaggedBatch batch;
    batch.Add(next, position, blocks);
    position += static_cast<uint32_t>(next.size());
    const auto last = static_cast<uint32_t>(next.size()) - 1;
    if (!chosen) {
      const auto logits = model.Step(batch, {last}, kv->storage(), *workspace).value();
      std::vector<float> row(logits.begin(), logits.end());
      next = {ChooseToken(absl::MakeSpan(row), ChoiceOf(i)).token};
      out.push_back(next[0]);
      continue;
    }
    const bool ahead = model.backend().runs_ahead();
    model.StartStep(batch, {last}, {ChoiceOf(i)}, kv->storage(), *workspace);
    if (!ahead || i > 0) finish();
    if (ahead && i + 1 == count) finish();
    next = {ChosenInRow(0)};
  }
  return out;
}

// Runs a test on the model, on the emulated device and on the CPU.
void OnEachDevice(absl::FunctionRef<void(const Model&)> test) {
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const auto cpu = OpenCpu().value();
  for (const Device* device : std::initializer_list<const Device*>{&cuda, cpu.get()}) {
    SCOPED_TRACE(device->name());
    const auto loaded = Load(kRecipe, *device, team);
    ASSERT_NE(loaded, nullptr);
    test(loaded->model());
  }
}

TEST(CudaModel, AStepRunsOnTheTokensThatTheOneBeforeChose) {
  OnEachDevice([](const Model& model) {
    const std::vector<int32_t> prompt = Tokens(9, 4);
    const std::vector<int32_t> expected = Continue(model, prompt, 20, false);
    EXPECT_EQ(Continue(model, prompt, 20, true), expected);
  });
}

TEST(CudaModel, ChoosesAfterSomeRowsAndGivesTheLogitsOfOthers) {
  OnEachDevice([](const Model& model) {
    auto kv = KvCache::Create(model.backend(), model.config(), 64, 16, KvElement::kF16).value();
    auto workspace = model.CreateWorkspace(8, 8);
    const std::vector<int32_t> tokens = Tokens(5, 2);
    BlockTable blocks;
    kv->blocks().Cover(5, blocks);
    RaggedBatch batch;
    batch.Add(tokens, 0, blocks);
    const auto logits = model.Step(batch, {4, 0, 2}, kv->storage(), *workspace).value();
    std::vector<float> all(logits.begin(), logits.end());
    const size_t vocab = model.config().vocab_size;
    model.StartStep(batch, {4, 0, 2}, {ChoiceOf(1), ChoiceOf(2)}, kv->storage(), *workspace);
    const auto result = model.FinishStep(1, *workspace);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(std::equal(result->logits.begin(), result->logits.end(), all.begin()));
    EXPECT_EQ(result->logits.size(), vocab);
    for (const size_t row : {1, 2}) {
      const ChosenToken expected = ChooseToken(absl::MakeSpan(all).subspan(row * vocab, vocab),
                                               ChoiceOf(static_cast<uint32_t>(row)));
      EXPECT_EQ(result->chosen[row].token, expected.token);
      EXPECT_EQ(result->chosen[row].logit, expected.logit);
    }
  });
}

TEST(CudaModel, AStepStartedAheadIsOneGraphAndAllocatesNothingAndOnlyFinishingWaits) {
  ThreadTeam team(2);
  const EmulatedDevice cuda;
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const Model& model = loaded->model();
  auto kv = KvCache::Create(model.backend(), model.config(), 256, 16, KvElement::kF16).value();
  auto workspace = model.CreateWorkspace(8, 4);
  BlockTable blocks;
  kv->blocks().Cover(256, blocks);
  for (uint32_t step = 0; step < 20; ++step) {
    const auto before = cuda.runtime().counts();
    const int32_t token = step == 0 ? 1 : ChosenInRow(0);
    RaggedBatch batch;
    batch.Add({&token, 1}, step, blocks);
    model.StartStep(batch, {0}, {ChoiceOf(step)}, kv->storage(), *workspace);
    const auto started = cuda.runtime().counts();
    if (step > 0) {
      ASSERT_TRUE(model.FinishStep(0, *workspace).ok());
      EXPECT_GT(model.StepTime(*workspace), absl::ZeroDuration());
    }
    if (step < 2) continue;
    const auto after = cuda.runtime().counts();
    EXPECT_EQ(after.allocations, before.allocations) << step;
    EXPECT_EQ(started.synchronizations, before.synchronizations) << step;
    EXPECT_EQ(after.synchronizations - before.synchronizations, 1) << step;
    EXPECT_EQ(after.graph_launches - before.graph_launches, 1) << step;
    // Copies of batch, block tables, selection, choices, edits, angles and tokens, their events,
    // and little else.
    EXPECT_LE(after.calls - before.calls, 24) << step;
  }
  ASSERT_TRUE(model.FinishStep(0, *workspace).ok());
}

// --- Memory that ends.

TEST(CudaModel, TooLittleMemoryIsNamedWhenTheModelIsLoaded) {
  ThreadTeam team(1);
  const EmulatedDevice cuda(64000);
  const absl::Status status =
      LoadedModel::LoadPacked(Packed(kRecipe), Verify::kHeader, cuda, team).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("of the 64000 of emulation are available"));
}

TEST(CudaModel, RefusesAnFp32KvCache) {
  ThreadTeam team(1);
  const EmulatedDevice cuda;
  const auto loaded = Load(kRecipe, cuda, team);
  ASSERT_NE(loaded, nullptr);
  const auto kv = KvCache::Create(loaded->model().backend(), TinyConfig(), 64, 16, KvElement::kF32);
  EXPECT_TRUE(absl::IsUnimplemented(kv.status())) << kv.status();
}

}  // namespace
}  // namespace quantloom
