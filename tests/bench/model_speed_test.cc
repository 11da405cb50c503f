// What bench/ counts and makes; times themselves decide nothing here.
#include "bench/model_speed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bench/random_weights.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

TEST(CountWeights, CountsTheDecodersLinearLayersAndTheHead) {
  const ModelConfig config = testing::TinyConfig();
  const WeightCounts counts = CountWeights(config);
  // q, o: 64 x 64; k, v: 32 x 64; gate, up, down: 96 x 64; two layers.
  EXPECT_EQ(counts.layers, 2u * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64));
  EXPECT_EQ(counts.head, 272u * 64);
}

class ModelSpeedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteTinyModel(directory_.path(), /*seed=*/1);
    auto loaded = LoadedModel::LoadSource(directory_.path(), team_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *std::move(loaded);
  }

  testing::TemporaryDirectory directory_;
  ThreadTeam team_{1};
  std::shared_ptr<const LoadedModel> model_;
};

TEST_F(ModelSpeedTest, EveryPartOfAStepTakesTime) {
  const auto speed =
      MeasureModelSpeed(*model_, {.batch = 3, .prompt = 20, .generate = 9, .chunk = 8});
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_GT(speed->prompt_seconds, 0);
  EXPECT_GT(speed->layers_seconds, 0);
  EXPECT_GE(speed->step_seconds, speed->layers_seconds);
}

TEST_F(ModelSpeedTest, NothingGeneratedTakesNoTime) {
  const auto speed = MeasureModelSpeed(
      *model_, {.prompt = 4, .generate = 0, .read_bandwidth = [] { return 1.0; }});
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_EQ(speed->step_seconds, 0);
  EXPECT_EQ(speed->read_bandwidth, 0);
}

TEST_F(ModelSpeedTest, BandwidthIsTheMeanOfBeforeAndAfterGeneration) {
  double answer = 1;
  const auto speed = MeasureModelSpeed(
      *model_, {.prompt = 4, .generate = 2, .read_bandwidth = [&] { return answer *= 3; }});
  ASSERT_TRUE(speed.ok()) << speed.status();
  EXPECT_EQ(speed->read_bandwidth, 6);
}

TEST_F(ModelSpeedTest, WholeContextCanBeUsedAndNoMore) {
  EXPECT_TRUE(MeasureModelSpeed(*model_, {.prompt = 508, .generate = 3}).ok());
  EXPECT_EQ(MeasureModelSpeed(*model_, {.prompt = 508, .generate = 4}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Every value of the stored matrix.
std::vector<float> Decode(const EncodedMatrix& encoded, uint64_t rows, uint64_t cols) {
  std::vector<PlaneView> planes;
  for (const Plane& plane : encoded.planes) planes.push_back(plane.view());
  const auto matrix = OpenMatrix(encoded.recipe, rows, cols, planes);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  if (!matrix.ok()) return {};
  ThreadTeam team(1);
  return Dequantize(**matrix, team);
}

TEST(RandomWeights, HaveTheVarianceOfAModelsLayers) {
  for (const char* recipe : {"icquant:bits=2", "qtip:bits=2", "qtip:bits=3,code=3inst",
                             "qtip:bits=2,code=hyb", "quip:bits=2", "quip:bits=4"}) {
    ThreadTeam team(1);
    const auto weights = RandomWeights::Create(recipe);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const auto matrix = (*weights)->Make(48, 256, team);
    ASSERT_TRUE(matrix.ok()) << recipe << ": " << matrix.status();
    EXPECT_EQ(*(*weights)->Make(48, 256, team), *matrix);  // made once
    double sum = 0;
    for (const float value : Decode(**matrix, 48, 256)) sum += double{value} * value;
    EXPECT_NEAR(std::sqrt(sum / 48), 1, 0.25) << recipe;
  }
}

TEST(RandomWeights, RefuseShapesThatTilesDoNotFill) {
  ThreadTeam team(1);
  const auto weights = RandomWeights::Create("qtip:bits=2");
  ASSERT_TRUE(weights.ok());
  EXPECT_EQ((*weights)->Make(40, 256, team).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(RandomWeights::Create("qtip:bits=99").ok());
}

}  // namespace
}  // namespace quantloom
