// Quantization on a CUDA device, emulated, and on one that fails.
#include <cmath>
#include <filesystem>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/format/source_model.h"
#include "engine/quantize/layerwise.h"
#include "engine/quantize/quantize_model.h"
#include "engine/source_weights.h"
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

TEST_F(CudaQuantizeTest, CalibrationRunsOnTheDeviceAndTheManifestSaysSo) {
  options_.overrides.clear();
  options_.calibration_tokens = 128;
  const auto on_cpu = Run("cpu", *OpenCpu().value());
  const EmulatedDevice device;
  const auto first = Run("first", device);
  ASSERT_TRUE(on_cpu.ok() && first.ok()) << first.status();
  EXPECT_EQ(first->manifest.calibration_sha256, on_cpu->manifest.calibration_sha256);
  ASSERT_EQ(first->manifest.tensors.size(), on_cpu->manifest.tensors.size());
  for (size_t i = 0; i < first->manifest.tensors.size(); ++i) {
    const PackedTensorInfo& tensor = first->manifest.tensors[i];
    // Norms are stored as they are.
    EXPECT_EQ(tensor.calibration_device, tensor.recipe == "raw" ? "" : "emulation") << tensor.name;
    EXPECT_EQ(on_cpu->manifest.tensors[i].calibration_device, "");
    const double expected = on_cpu->manifest.tensors[i].relative_error;
    // Feedback spreads what the inputs' rounding changes over few and coarse codes.
    EXPECT_NEAR(tensor.relative_error, expected, 0.3 * expected) << tensor.name;
  }
  ASSERT_TRUE(Run("second", device).ok());
  EXPECT_EQ(Contents(Staging("second")), Contents(Staging("first")));
}

TEST_F(CudaQuantizeTest, ADeviceThatFailsWhileItCalibratesEndsTheJobAndTheNextTakesItUp) {
  options_.overrides.clear();
  options_.calibration_tokens = 64;
  EmulatedDevice device;
  ASSERT_TRUE(Run("whole", device).ok());
  uint32_t kept = 0;
  for (const uint64_t calls : {20, 60, 200}) {
    const std::string name = absl::StrCat("after", calls);
    device.FailAfter(calls);
    const auto failed = Run(name, device);
    ASSERT_TRUE(absl::IsUnavailable(failed.status())) << calls << ": " << failed.status();
    EXPECT_THAT(std::string(failed.status().message()), HasSubstr("device cuda:0 failed: "));
    kept = std::max(kept, progress_.tensors_done);
    device.FailAfter(UINT64_MAX);
    const auto resumed = Run(name, device);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(Contents(Staging(name)), Contents(Staging("whole"))) << calls;
  }
  EXPECT_GT(kept, 3);
}

TEST_F(CudaQuantizeTest, ADeviceWithoutMemoryForTheHessianIsNotSaidToHaveFailed) {
  options_.overrides.clear();
  options_.calibration_tokens = 64;
  const EmulatedDevice device(/*memory_bytes=*/100000);
  const absl::Status status = Run("small", device).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("of the 100000 of emulation are available"));
}

TEST_F(CudaQuantizeTest, HessiansAreTheCpusButForTheWeightsRoundedToHalves) {
  ThreadTeam team(1);
  const auto source = SourceModel::Open(options_.source);
  ASSERT_TRUE(source.ok()) << source.status();
  CalibrationText text;
  for (const size_t length : {40, 1, 33}) {
    for (size_t i = 0; i < length; ++i) {
      if (i == 0) text.windows.emplace_back();
      text.windows.back().push_back(static_cast<int32_t>((length * 31 + i * i * 7) % 250));
    }
  }
  const auto run = [&](const Device& device, std::map<std::string, Hessian>& hessians) {
    const auto backend = device.CreateBackend(team);
    ASSERT_TRUE(backend.ok()) << backend.status();
    SourceWeights weights(**source, **backend);
    const absl::Status status =
        RunLayerwise((*source)->config(), weights, **backend, text,
                     [&](absl::Span<LinearWeight* const> group, Hessian hessian) -> absl::Status {
                       for (LinearWeight* linear : group) {
                         auto matrix = weights.Matrix(linear->name, linear->rows, linear->cols);
                         if (!matrix.ok()) return matrix.status();
                         linear->matrix = *std::move(matrix);
                       }
                       hessians.emplace(group[0]->name, std::move(hessian));
                       return absl::OkStatus();
                     },
                     [] { return absl::OkStatus(); });
    EXPECT_TRUE(status.ok()) << status;
  };
  std::map<std::string, Hessian> expected, found;
  run(*OpenCpu().value(), expected);
  run(EmulatedDevice(), found);
  ASSERT_EQ(found.size(), 4 * (*source)->config().num_layers + 1);
  for (const auto& [name, hessian] : found) {
    const Hessian& host = expected.at(name);
    EXPECT_EQ(hessian.tokens(), host.tokens());
    // The first layer reads rows of the embedding, each value rounded by u = 2^-11 at most, and
    // normed by a root mean square that is wrong by as much: 4 u of |x_i x_j| in all, and of
    // sqrt(H_ii H_jj) by Cauchy and Schwarz; 2^-16 for what fp32 adds. Deeper ones read products.
    const double share =
        name == "model.layers.0.self_attn.q_proj.weight" ? 4 * 0x1p-11 + 0x1p-16 : 0.02;
    for (uint64_t i = 0; i < host.size(); ++i) {
      for (uint64_t j = 0; j < host.size(); ++j) {
        ASSERT_NEAR(hessian.at(i, j), host.at(i, j),
                    share * std::sqrt(host.at(i, i) * host.at(j, j)))
            << name << " " << i << ", " << j;
      }
    }
  }
}

TEST_F(CudaQuantizeTest, ADeviceThatFailsFromTheStartIsSaidToHaveFailed) {
  EmulatedDevice device;
  device.FailAfter(0);
  EXPECT_TRUE(absl::IsUnavailable(Run("never", device).status()));
}

}  // namespace
}  // namespace quantloom
