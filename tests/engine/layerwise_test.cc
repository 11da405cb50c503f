#include "engine/quantize/layerwise.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/format/source_model.h"
#include "engine/cpu_backend.h"
#include "engine/source_weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/reference_model.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

// Coarse enough that a layer which read unquantized inputs would be noticed.
std::vector<float> Coarse(std::vector<float> values) {
  for (float& value : values) value = std::round(value * 16) / 16;
  return values;
}

class LayerwiseTest : public ::testing::Test {
 protected:
  LayerwiseTest() : team_(2) {
    testing::WriteTinyModel(directory_.path(), 11);
    source_ = SourceModel::Open(directory_.path()).value();
    backend_ = CreateCpuBackend(team_).value();
    weights_ = std::make_unique<SourceWeights>(*source_, *backend_);
    for (size_t length : {40, 7, 1, 64, 33}) {
      std::vector<int32_t>& window = text_.windows.emplace_back();
      for (size_t i = 0; i < length; ++i) {
        window.push_back(static_cast<int32_t>((length * 31 + i * i * 7) % 250));
      }
    }
  }

  // Runs the text with every decoder matrix made coarse; the Hessians by tensor name.
  absl::Status Run(std::map<std::string, std::vector<double>>& hessians) {
    return RunLayerwise(
        source_->config(), *weights_, *backend_, text_,
        [&](absl::Span<LinearWeight* const> group, const Hessian& hessian) -> absl::Status {
          for (LinearWeight* linear : group) {
            hessians[linear->name].assign(hessian.data().begin(), hessian.data().end());
            EXPECT_EQ(hessian.tokens(), text_.tokens());
            const std::vector<float> values = Coarse(source_->ReadFloats(linear->name).value());
            linear->matrix = backend_
                                 ->MatrixFromDense(linear->rows, linear->cols, DType::kF32,
                                                   {reinterpret_cast<const uint8_t*>(values.data()),
                                                    values.size() * sizeof(float)})
                                 .value();
          }
          return absl::OkStatus();
        },
        [&] {
          ++steps_;
          return status_;
        });
  }

  testing::TemporaryDirectory directory_;
  ThreadTeam team_;
  std::unique_ptr<SourceModel> source_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<SourceWeights> weights_;
  CalibrationText text_;
  absl::Status status_;
  int steps_ = 0;
};

TEST_F(LayerwiseTest, HessiansAreOfTheInputsLeftByQuantizedLayers) {
  std::map<std::string, std::vector<double>> hessians;
  const absl::Status status = Run(hessians);
  ASSERT_TRUE(status.ok()) << status;

  const ModelConfig& config = source_->config();
  auto weights = testing::TinyWeights(config, 11);
  for (auto& [name, values] : weights) {
    if (name.find("_proj.weight") != std::string::npos) values = Coarse(values);
  }
  testing::ReferenceInputs inputs;
  for (const auto& window : text_.windows) {
    testing::ReferenceLogits(config, weights, window, &inputs);
  }
  EXPECT_EQ(hessians.size(), inputs.size());
  for (const auto& [name, rows] : inputs) {
    ASSERT_EQ(hessians.count(name), 1u) << name;
    const std::vector<double>& hessian = hessians[name];
    const size_t n = rows[0].size();
    ASSERT_EQ(hessian.size(), n * n) << name;
    double largest = 0;
    std::vector<double> expected(n * n);
    for (const std::vector<double>& x : rows) {
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) expected[i * n + j] += x[i] * x[j];
      }
    }
    for (size_t i = 0; i < n; ++i) largest = std::max(largest, expected[i * n + i]);
    for (size_t i = 0; i < n * n; ++i) {
      ASSERT_NEAR(hessian[i], expected[i], 2e-5 * largest) << name << " " << i;
    }
  }
}

TEST_F(LayerwiseTest, HessiansAreTheSameBitsWithAnyNumberOfThreads) {
  std::map<std::string, std::vector<double>> first;
  ASSERT_TRUE(Run(first).ok());
  ThreadTeam alone(1);
  backend_ = CreateCpuBackend(alone).value();
  weights_ = std::make_unique<SourceWeights>(*source_, *backend_);
  std::map<std::string, std::vector<double>> second;
  ASSERT_TRUE(Run(second).ok());
  EXPECT_EQ(first, second);
}

TEST_F(LayerwiseTest, EndsWhenAStepSaysSo) {
  status_ = absl::CancelledError("enough");
  std::map<std::string, std::vector<double>> hessians;
  EXPECT_EQ(Run(hessians), status_);
  EXPECT_EQ(steps_, 1);
}

TEST_F(LayerwiseTest, RejectsTextThatTheModelCannotRead) {
  std::map<std::string, std::vector<double>> hessians;
  const CalibrationText good = text_;
  text_.windows[1][3] = 272;
  EXPECT_THAT(std::string(Run(hessians).message()), HasSubstr("token 272"));
  text_ = good;
  text_.windows.emplace_back(source_->config().max_position + 1, 5);
  EXPECT_THAT(std::string(Run(hessians).message()), HasSubstr("calibration window of 513 tokens"));
  text_.windows.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(Run(hessians)));
  EXPECT_TRUE(hessians.empty());
}

}  // namespace
}  // namespace quantloom
