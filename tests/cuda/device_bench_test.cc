// What device_bench measures, under emulation: that it runs, not how fast.
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "bench/device_models.h"
#include "bench/device_operators.h"
#include "bench/device_products.h"
#include "bench/device_under_test.h"
#include "core/codec/gap_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/kernel_table.h"
#include "tests/cuda/emulation/emulated_dense_library.h"
#include "tests/cuda/emulation/emulated_runtime.h"

namespace quantloom {
namespace {

using cuda_emulation::EmulatedRuntime;
using ::testing::HasSubstr;

constexpr MeasureOptions kQuick = {.nodes = 2, .rounds = 1, .rotate_bytes = 1};

class DeviceBenchTest : public ::testing::Test {
 protected:
  DeviceBenchTest() {
    auto runtime = std::make_unique<EmulatedRuntime>();
    runtime_ = runtime.get();
    device_ = std::make_unique<DeviceUnderTest>(
        DeviceUnderTest::Create(std::move(runtime), cuda::Kernels(), team_).value());
  }

  ThreadTeam team_{1};
  EmulatedRuntime* runtime_;
  std::unique_ptr<DeviceUnderTest> device_;
};

ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.vocab_size = 256;
  config.hidden_size = 256;
  config.intermediate_size = 256;
  config.num_layers = 1;
  config.num_heads = 4;
  config.num_kv_heads = 4;
  config.head_dim = 64;
  config.max_position = 64;
  return config;
}

DeviceForm FormOf(const std::string& name) {
  for (const DeviceForm& form : DeviceForms()) {
    if (form.name == name) return form;
  }
  ADD_FAILURE() << name;
  return {};
}

TEST(ReadSweep, ReadsEveryVectorOnce) {
  // Blocks of 1024 vectors; a thread takes every 256th.
  constexpr size_t kVectors = 1500;
  std::vector<uint32_t> words(4 * kVectors, 0);
  for (const size_t vector : {size_t{0}, size_t{255}, size_t{1023}, size_t{1024}, kVectors - 1}) {
    words[4 * vector + vector % 4] = 77;
    uint32_t found = 0;
    ASSERT_EQ(cuda::ReadSweep(words.data(), words.size() * 4, 77, &found, nullptr), nullptr);
    EXPECT_EQ(found, 1u) << vector;
    found = 0;
    ASSERT_EQ(cuda::ReadSweep(words.data(), words.size() * 4, 78, &found, nullptr), nullptr);
    EXPECT_EQ(found, 0u) << vector;
    words[4 * vector + vector % 4] = 0;
  }
}

TEST(RepeatPattern, RepeatsAndStepsUnderTheMask) {
  const std::vector<uint32_t> pattern = {1, 2, 0xFFFFFFFF};
  std::vector<uint32_t> words(1001, 5);
  ASSERT_EQ(cuda::RepeatPattern(pattern.data(), 3, 16, 0xFF, words.data(), 1000, nullptr), nullptr);
  for (uint32_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(words[i], (pattern[i % 3] + i / 3 * 16) & 0xFF) << i;
  }
  EXPECT_EQ(words[1000], 5u);
}

TEST(DeviceForms, NamesAreDistinct) {
  std::set<std::string> names;
  for (const DeviceForm& form : DeviceForms()) EXPECT_TRUE(names.insert(form.name).second);
}

TEST_F(DeviceBenchTest, RandomIcquantMatricesHaveTheBitsOfFivePercentOutliers) {
  const double bits = 8.0 *
                      static_cast<double>(RandomMatrices::Bytes(FormOf("icquant-2"), 4096, 4096)) /
                      (4096.0 * 4096.0);
  EXPECT_GT(bits, 2.3);
  EXPECT_LT(bits, 2.45);
}

TEST_F(DeviceBenchTest, RandomOutlierIndicesAreWellFormedToTheirEnd) {
  constexpr uint32_t kRows = 512;
  constexpr uint32_t kCols = 2560;  // 320 segments of 16 rows: more than are drawn
  const auto matrix = device_->matrices().Make(FormOf("icquant-2"), kRows, kCols);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  ASSERT_TRUE(device_->context().runtime().Synchronize(device_->context().stream()).ok());
  const auto& view = std::get<cuda::IcquantView>(matrix->view);
  const auto* const stream = reinterpret_cast<const uint8_t*>(view.symbols);
  uint64_t outliers = 0;
  for (uint32_t segment = 0; segment < kRows / 16 * view.segments; ++segment) {
    uint64_t symbol = view.first_symbol[segment];
    for (uint32_t row = 0; row < 16; ++row) {
      const uint32_t count = view.counts[segment * 16 + row];
      uint32_t of_row = 0;
      ASSERT_TRUE(CheckSegment(stream, 6, symbol, count, 256, &of_row)) << segment << ", " << row;
      outliers += of_row;
      symbol += count;
    }
  }
  EXPECT_NEAR(static_cast<double>(outliers) / (kRows * kCols), 0.05, 0.002);
}

TEST_F(DeviceBenchTest, ProductsRunInEveryForm) {
  for (const DeviceForm& form : DeviceForms()) {
    SCOPED_TRACE(form.name);
    const uint64_t launches = runtime_->counts().graph_launches;
    const auto timings =
        MeasureProducts(device_->context(), device_->matrices(), form, 256, 256, {1, 9}, kQuick);
    ASSERT_TRUE(timings.ok()) << timings.status();
    ASSERT_EQ(timings->size(), 2u);
    EXPECT_EQ((*timings)[1].tokens, 9u);
    EXPECT_EQ((*timings)[1].bytes, RandomMatrices::Bytes(form, 256, 256) / 16 * 16);
    EXPECT_EQ(runtime_->counts().graph_launches - launches, 8u);  // two rounds of four graphs
  }
}

TEST_F(DeviceBenchTest, LibraryProductsStandBesideASweepOfTheirBytes) {
  cuda_emulation::EmulatedDenseLibrary library;
  const auto timings = MeasureLibraryProducts(device_->context(), device_->matrices(), library, 256,
                                              512, {1, 9}, kQuick);
  ASSERT_TRUE(timings.ok()) << timings.status();
  ASSERT_EQ(timings->size(), 2u);
  EXPECT_EQ((*timings)[1].name, "cublas");
  EXPECT_EQ((*timings)[1].bytes, 256u * 512 * 2 + 256 * 4);  // elements, and scales of rows
  EXPECT_EQ(library.products(), 6u);                         // each once, then two nodes
}

TEST_F(DeviceBenchTest, ProductsReportADeviceThatFails) {
  runtime_->FailAfter(20);
  EXPECT_FALSE(MeasureProducts(device_->context(), device_->matrices(), DeviceForms()[0], 256, 256,
                               {1}, {.nodes = 2, .rounds = 9, .rotate_bytes = 1})
                   .ok());
}

TEST_F(DeviceBenchTest, SweepsAreOfTheirSizes) {
  const auto timings = MeasureSweeps(device_->context(), {1 << 16, 1 << 20}, kQuick);
  ASSERT_TRUE(timings.ok()) << timings.status();
  ASSERT_EQ(timings->size(), 2u);
  EXPECT_EQ((*timings)[1].bytes, 1u << 20);
}

TEST_F(DeviceBenchTest, OperatorsRunOnFewAndManyRows) {
  const auto timings = MeasureRowOperators(*device_, SmallConfig(), {1, 70}, kQuick);
  ASSERT_TRUE(timings.ok()) << timings.status();
  EXPECT_EQ(timings->size(), 18u);
}

TEST_F(DeviceBenchTest, AttentionRunsForEveryBatchContextAndThePrompt) {
  const auto timings = MeasureAttention(
      *device_, SmallConfig(), {.batches = {1, 3}, .contexts = {5, 300}, .prompt = 70}, kQuick);
  ASSERT_TRUE(timings.ok()) << timings.status();
  ASSERT_EQ(timings->size(), 5u);
  // 19 blocks of 16 positions, of 4 heads of 64 fp16 keys and values.
  EXPECT_EQ((*timings)[2].bytes, 19u * 16 * 4 * 64 * 2 * 2);
  EXPECT_EQ((*timings)[4].tokens, 70u);
}

TEST_F(DeviceBenchTest, ModelsDecodeThroughRecordedStepsAndPrefill) {
  for (const char* const form : {"fp16", "icquant-2", "mul1-2", "quip-2"}) {
    SCOPED_TRACE(form);
    const uint64_t launches = runtime_->counts().graph_launches;
    const auto timings = MeasureModel(*device_, {"small", SmallConfig()}, FormOf(form), 1e12,
                                      {.batches = {1, 3}, .context = 4, .prompt = 9, .rounds = 2});
    ASSERT_TRUE(timings.ok()) << timings.status();
    ASSERT_EQ(timings->size(), 3u);
    EXPECT_EQ((*timings)[0].kind, "decode");
    EXPECT_EQ((*timings)[1].tokens, 3u);
    EXPECT_EQ((*timings)[2].kind, "prefill");
    EXPECT_GT((*timings)[0].wall_seconds, 0);
    EXPECT_GE(runtime_->counts().graph_launches - launches, 4u);
  }
}

TEST_F(DeviceBenchTest, AModelWithoutRoomIsResourceExhausted) {
  const auto timings =
      MeasureModel(*device_, LlamaShapes()[3], FormOf("fp16"), 1e12, {.batches = {1}, .prompt = 0});
  EXPECT_TRUE(absl::IsResourceExhausted(timings.status())) << timings.status();
  EXPECT_THAT(timings.status().ToString(), HasSubstr("are available"));
}

TEST(TimingLine, HasAFieldForEachColumnAndTheShareAfterT0) {
  const DeviceTiming timing = {.kind = "product",
                               .name = "icquant-2",
                               .shape = "4096x4096",
                               .tokens = 1,
                               .bytes = 4'000'000,
                               .seconds = 5e-6,
                               .sweep_seconds = 4e-6,
                               .node_seconds = 2e-6,
                               .half_seconds = 20e-6};
  const std::vector<std::string> names = absl::StrSplit(TimingHeader(), '\t');
  const std::vector<std::string> fields = absl::StrSplit(TimingLine(timing), '\t');
  ASSERT_EQ(fields.size(), names.size());
  std::map<std::string, std::string> line;
  for (size_t i = 0; i < names.size(); ++i) line[names[i]] = fields[i];
  EXPECT_EQ(line["share"], "0.66667");
  EXPECT_EQ(line["GB/s"], "800");
  EXPECT_EQ(line["speedup"], "4");
  EXPECT_EQ(line["wall_us"], "");
}

}  // namespace
}  // namespace quantloom
