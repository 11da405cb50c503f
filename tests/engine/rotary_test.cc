#include "engine/rotary.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

TEST(RotaryEmbedding, AnglesAreThoseOfTheMathLibraryToSinglePrecision) {
  for (const uint64_t head_dim : {2u, 64u, 80u, 128u, 512u}) {
    for (const double theta : {10000.0, 100000.0, 1000000.0}) {
      ModelConfig config = testing::TinyConfig();
      config.head_dim = head_dim;
      config.rope_theta = theta;
      const RotaryEmbedding rotary(config);
      std::vector<float> angles(head_dim);
      for (const uint32_t position : {0u, 1u, 2u, 511u, 8191u, 131071u}) {
        rotary.Angles(position, angles.data());
        for (size_t i = 0; i < head_dim / 2; ++i) {
          const double angle = position * std::pow(theta, -2.0 * static_cast<double>(i) /
                                                              static_cast<double>(head_dim));
          EXPECT_NEAR(angles[i], std::cos(angle), 1e-7) << head_dim << " " << position << " " << i;
          EXPECT_NEAR(angles[head_dim / 2 + i], std::sin(angle), 1e-7);
        }
      }
    }
  }
}

TEST(RotaryEmbedding, LinearScalingStretchesPositions) {
  ModelConfig config = testing::TinyConfig();
  const RotaryEmbedding plain(config);
  config.rope_scaling.type = RopeScaling::Type::kLinear;
  config.rope_scaling.factor = 4;
  const RotaryEmbedding scaled(config);
  std::vector<float> expected(config.head_dim);
  std::vector<float> actual(config.head_dim);
  plain.Angles(25, expected.data());
  scaled.Angles(100, actual.data());
  for (size_t i = 0; i < config.head_dim; ++i) EXPECT_NEAR(actual[i], expected[i], 1e-7);
}

}  // namespace
}  // namespace quantloom
