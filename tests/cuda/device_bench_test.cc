// What device_bench measures, under emulation: that it runs, not how fast.
#include <set>
#include <string>
#include <vector>

#include "bench/device_products.h"
#include "gtest/gtest.h"
#include "kernels/cuda/kernel_table.h"
#include "tests/cuda/emulation/emulated_runtime.h"

namespace quantloom {
namespace {

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

TEST(DeviceForms, NamesAreDistinct) {
  std::set<std::string> names;
  for (const DeviceForm& form : DeviceForms()) EXPECT_TRUE(names.insert(form.name).second);
}

TEST(RandomImage, OfIcquantHasTheBitsOfFivePercentOutliers) {
  const DeviceForm form = {"icquant-2", cuda::IcquantView{.bits = 2}};
  const cuda::MatrixImage image = RandomImage(form, 256, 4096, 1);
  const double bits = 8.0 * static_cast<double>(image.bytes.size()) / (256 * 4096);
  EXPECT_GT(bits, 2.3);
  EXPECT_LT(bits, 2.45);
}

TEST(MeasureProducts, RunsEveryForm) {
  for (const DeviceForm& form : DeviceForms()) {
    SCOPED_TRACE(form.name);
    cuda_emulation::EmulatedRuntime runtime;
    const auto timings = MeasureProducts(runtime, cuda::Kernels(), form, 256, 256, {1, 9},
                                         {.nodes = 2, .rounds = 1, .rotate_bytes = 1});
    ASSERT_TRUE(timings.ok()) << timings.status();
    ASSERT_EQ(timings->size(), 2u);
    EXPECT_EQ((*timings)[1].tokens, 9u);
    EXPECT_EQ(runtime.counts().graph_launches, 8u);  // two rounds of four graphs
  }
}

TEST(MeasureProducts, ReportsADeviceThatFails) {
  cuda_emulation::EmulatedRuntime runtime;
  runtime.FailAfter(20);
  EXPECT_FALSE(MeasureProducts(runtime, cuda::Kernels(), DeviceForms()[0], 256, 256, {1},
                               {.nodes = 2, .rounds = 9, .rotate_bytes = 1})
                   .ok());
}

}  // namespace
}  // namespace quantloom
