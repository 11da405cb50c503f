// The rtn codec: levels cover every group, codes are the nearest level's, damage is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/rounding/hessian_factors.h"
#include "core/rounding/ldlq.h"
#include "core/rounding/proxy_loss.h"
#include "tests/core/codec_testing.h"
#include "tests/core/rounding_testing.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

float FromBFloat16(const uint8_t* bytes) {
  const uint32_t bits = (uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Shape {
  uint64_t rows, cols;
};

class RtnShapeTest : public ::testing::TestWithParam<Shape> {};

TEST_P(RtnShapeTest, EveryWeightIsWithinHalfAStepOfItsValue) {
  const auto [rows, cols] = GetParam();
  const std::vector<float> weights = GaussianWeights(rows * cols, 3);
  for (const int bits : {1, 2, 3, 4, 8}) {
    const uint64_t group = 32;
    const Stored stored =
        EncodeAndOpen(absl::StrCat("rtn:bits=", bits, ",group=", group), weights, rows, cols);
    const std::vector<float> decoded = stored.Decode();
    const Plane& levels = PlaneNamed(stored.encoded, "levels");
    const uint64_t groups = (cols + group - 1) / group;
    for (uint64_t i = 0; i < weights.size(); ++i) {
      const uint64_t g = i / cols * groups + i % cols / group;
      const float step = FromBFloat16(levels.bytes.data() + 4 * g + 2);
      EXPECT_LE(std::fabs(weights[i] - decoded[i]), step * 0.5001f) << i << " at " << bits;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RtnShapeTest,
                         ::testing::Values(Shape{1, 1}, Shape{1, 100}, Shape{7, 1}, Shape{5, 31},
                                           Shape{3, 33}, Shape{16, 256}),
                         [](const auto& tested) {
                           return absl::StrCat(tested.param.rows, "x", tested.param.cols);
                         });

// Uniform weights in a group of n have a range of about (n - 1) / (n + 1), and rounding them to
// `step` leaves step^2 / 12.
TEST(RtnTest, ErrorOnUniformWeightsIsTheTextbooks) {
  std::vector<float> weights = GaussianWeights(64 * 1024, 5);
  for (float& w : weights) w = std::erf(w / std::sqrt(2.0f));  // uniform in (-1, 1)
  const Stored stored = EncodeAndOpen("rtn:bits=4,group=1024", weights, 64, 1024);
  const double step = 2.0 / 15;
  EXPECT_NEAR(RelativeError(weights, stored.Decode(), {}, 1024), step * step / 12 * 3, 2e-4);
}

TEST(RtnTest, StoresEveryBitThatItCounts) {
  const std::vector<float> weights = GaussianWeights(64 * 256, 7);
  const Stored stored = EncodeAndOpen("rtn:bits=4,group=64", weights, 64, 256);
  uint64_t bytes = 0;
  for (const Plane& plane : stored.encoded.planes) bytes += plane.bytes.size();
  EXPECT_DOUBLE_EQ(stored.matrix->bits().total(), 8.0 * static_cast<double>(bytes) / (64 * 256));
  EXPECT_DOUBLE_EQ(stored.matrix->bits().total(), 4.5);
}

TEST(RtnTest, FeedbackLosesLessOfTheOutputs) {
  const uint64_t rows = 64, cols = 96;
  const std::vector<float> weights = GaussianWeights(rows * cols, 8);
  const Hessian hessian = CorrelatedHessian(400, cols, 9);
  const std::vector<float> importance = hessian.MeanSquares();
  ThreadTeam team(2);
  const auto loss = [&](const char* recipe) {
    HessianFactors factors(hessian);
    const auto encoded = (*CreateCodec(recipe))
                             ->Encode({.weights = weights,
                                       .rows = rows,
                                       .cols = cols,
                                       .importance = importance,
                                       .hessian = &factors},
                                      team);
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    const auto matrix = OpenMatrix(encoded->recipe, rows, cols, Views(encoded->planes));
    EXPECT_TRUE(matrix.ok()) << matrix.status();
    const std::vector<float> decoded = Dequantize(**matrix, team);
    return ProxyLoss(hessian, Transposed(weights, rows, cols, team),
                     Transposed(decoded, rows, cols, team), rows, team);
  };
  EXPECT_LT(loss("rtn:bits=3"), 0.8 * loss("rtn:bits=3,rounding=nearest"));
}

TEST(RtnTest, ExtremeWeightsKeepTheirLevelsFinite) {
  const std::vector<float> weights = {0x1p126f, -0x1p126f, 1e-40f, 0, 5, 5, 5, 5};
  const Stored stored = EncodeAndOpen("rtn:bits=8,group=8", weights, 2, 4);
  for (const float value : stored.Decode()) EXPECT_TRUE(std::isfinite(value));
  EXPECT_EQ(stored.Decode()[4], 5);  // a constant group is exact
}

TEST(RtnTest, DamagedPlanesAreDataLoss) {
  const std::vector<float> weights = GaussianWeights(4 * 64, 10);
  const Stored stored = EncodeAndOpen("rtn:bits=4,group=64", weights, 4, 64);
  const auto open = [&](const std::vector<Plane>& planes) {
    return OpenMatrix(stored.encoded.recipe, 4, 64, Views(planes)).status();
  };
  std::vector<Plane> planes = stored.encoded.planes;
  for (Plane& plane : planes) {
    if (plane.name == "levels") plane.bytes[1] = 0x7f, plane.bytes[0] = 0x80;  // infinity
  }
  EXPECT_EQ(open(planes).code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(open(planes).message(), HasSubstr("plane 'levels'"));
  planes = stored.encoded.planes;
  planes.pop_back();
  EXPECT_EQ(open(planes).code(), absl::StatusCode::kDataLoss);
}

TEST(RtnTest, WrongOptionsNameKeyAndAllowedValues) {
  const auto message = [](const char* recipe) {
    const auto codec = CreateCodec(recipe);
    EXPECT_EQ(codec.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(codec.status().message());
  };
  EXPECT_THAT(message("rtn:bits=5"), HasSubstr("bits=5: allowed are 1, 2, 3, 4, 8"));
  EXPECT_THAT(message("rtn:group=0"), HasSubstr("group=0: allowed are 8 to"));
  EXPECT_THAT(message("rtn:rounding=up"), HasSubstr("rounding=up"));
  EXPECT_THAT(message("rtn:code=1"), HasSubstr("unknown key 'code'"));
}

}  // namespace
}  // namespace quantloom
