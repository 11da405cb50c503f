// Quantization on a CUDA device, emulated, and on one that fails.
#include <filesystem>
#include <map>
#include <string>

#include "core/base/file.h"
#include "engine/quantize/quantize_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

using cuda_emulation::EmulatedDevice;
using ::testing::HasSubstr;

// File name -> contents.
std::map<std::string, std::string> Contents(const std::filesystem::path& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    contents[std::filesystem::relative(entry.path(), directory).string()] =
        ReadFile(entry.path()).value();
  }
  return contents;
}

class CudaQuantizeTest : public ::testing::Test {
 protected:
  CudaQuantizeTest() {
    testing::WriteTinyModel(directory_.path() / "source", 7);
    options_.source = directory_.path() / "source";
    options_.recipe = "icquant:bits=2,inner=rtn,outliers=0";
    // One matrix, since the emulation takes a third of a second for a tile.
    options_.overrides = {{"model.layers.1.self_attn.k_proj.weight", "qtip:bits=4,code=hyb"}};
    options_.calibration_tokens = 0;
  }

  std::filesystem::path Staging(const std::string& name) const { return directory_.path() / name; }

  absl::StatusOr<QuantizeResult> Run(const std::string& name, const Device& device) {
    ThreadTeam team(1);
    return QuantizeModel(
        options_, Staging(name), device, team,
        [this](const QuantizeProgress& progress) { progress_ = progress; }, [] { return false; });
  }

  testing::TemporaryDirectory directory_;
  QuantizeOptions options_;
  QuantizeProgress progress_;  // the last
};

TEST_F(CudaQuantizeTest, WithoutCalibrationTheBytesAreTheCpus) {
  ASSERT_TRUE(Run("cpu", *OpenCpu().value()).ok());
  EXPECT_EQ(progress_.device, "cpu");
  const EmulatedDevice device;
  const auto result = Run("cuda", device);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(progress_.device, "cuda:0");
  EXPECT_EQ(Contents(Staging("cuda")), Contents(Staging("cpu")));
}

TEST_F(CudaQuantizeTest, ADeviceThatFailsEndsTheJobAndAnotherTakesItUp) {
  ASSERT_TRUE(Run("whole", *OpenCpu().value()).ok());
  EmulatedDevice device;
  device.FailAfter(18);
  const auto failed = Run("resumed", device);
  EXPECT_TRUE(absl::IsUnavailable(failed.status())) << failed.status();
  EXPECT_THAT(std::string(failed.status().message()),
              HasSubstr("device cuda:0 failed: tensor 'model.layers.1.self_attn.k_proj.weight': an "
                        "illegal memory access"));
  EXPECT_GT(progress_.tensors_done, 5);
  const auto resumed = Run("resumed", *OpenCpu().value());
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(Contents(Staging("resumed")), Contents(Staging("whole")));
}

TEST_F(CudaQuantizeTest, ADeviceThatFailsFromTheStartIsSaidToHaveFailed) {
  EmulatedDevice device;
  device.FailAfter(0);
  EXPECT_TRUE(absl::IsUnavailable(Run("never", device).status()));
}

}  // namespace
}  // namespace quantloom
