// Norms, sums, SwiGLU, rotation and storing, against sums in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "gtest/gtest.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/rotary.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;

constexpr double kEpsilon = 0x1p-24;  // half of fp32's machine epsilon: one rounding
const float kNan = std::numeric_limits<float>::quiet_NaN();

void ExpectLaunched(const char* error) { ASSERT_EQ(error, nullptr) << error; }

TEST(RmsNormTest, IsTheRootMeanSquareNormWithinItsRoundings) {
  for (const uint32_t cols : {1u, 31u, 256u, 576u, 1000u}) {
    SCOPED_TRACE(cols);
    constexpr uint32_t kRows = 3;
    const std::vector<float> x = RandomFloats(kRows * cols, cols, 3.0f);
    const std::vector<float> weight = RandomFloats(cols, 2);
    std::vector<float> out(kRows * cols, kNan);
    ExpectLaunched(
        RmsNorm(x.data(), nullptr, kRows, cols, weight.data(), 1e-5f, out.data(), Stream()));
    for (uint32_t row = 0; row < kRows; ++row) {
      double squares = 0;
      for (uint32_t c = 0; c < cols; ++c) squares += double{x[row * cols + c]} * x[row * cols + c];
      const double factor = 1 / std::sqrt(squares / cols + double{1e-5f});
      // A thread's cols / 256 additions, 5 of the warp, 8 of the block; half of that survives the
      // root; division, addition, root, division and two products after it.
      const double roundings = (cols / 256.0 + 1 + 5 + 8) / 2 + 6;
      for (uint32_t c = 0; c < cols; ++c) {
        const double expected = x[row * cols + c] * factor * weight[c];
        EXPECT_NEAR(out[row * cols + c], expected,
                    std::abs(expected) * roundings * kEpsilon * 1.01);
      }
    }
  }
}

TEST(RmsNormTest, GathersRowsThatComeOutAsTheyDoAlone) {
  constexpr uint32_t kCols = 70;
  const std::vector<float> x = RandomFloats(5 * kCols, 1);
  const std::vector<float> weight(kCols, 1.0f);
  const std::vector<uint32_t> rows = {4, 0, 4};
  std::vector<float> gathered(rows.size() * kCols, kNan);
  ExpectLaunched(
      RmsNorm(x.data(), rows.data(), 3, kCols, weight.data(), 1e-6f, gathered.data(), Stream()));
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<float> alone(kCols, kNan);
    ExpectLaunched(RmsNorm(x.data() + rows[i] * kCols, nullptr, 1, kCols, weight.data(), 1e-6f,
                           alone.data(), Stream()));
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), gathered.begin() + i * kCols)) << i;
  }
}

TEST(AddTest, AddsRowsOrOneRowToAllAndTouchesNothingElse) {
  constexpr uint32_t kRows = 3;
  constexpr uint32_t kCols = 300;
  constexpr uint32_t kStride = 310;
  const std::vector<float> x = RandomFloats(kRows * kStride, 1);
  const std::vector<float> y = RandomFloats(kRows * kCols, 2);
  for (const uint32_t y_stride : {kCols, 0u}) {
    std::vector<float> sum = x;
    ExpectLaunched(Add(sum.data(), kStride, y.data(), y_stride, kRows, kCols, Stream()));
    for (uint32_t t = 0; t < kRows; ++t) {
      for (uint32_t c = 0; c < kStride; ++c) {
        const float addend = c < kCols ? y[t * y_stride + c] : 0.0f;
        ASSERT_EQ(sum[t * kStride + c], x[t * kStride + c] + addend) << t << ", " << c;
      }
    }
  }
}

TEST(SwiGluTest, IsSiluOfTheGateTimesTheOther) {
  constexpr uint32_t kRows = 2;
  constexpr uint32_t kCols = 260;
  std::vector<float> gate_up = RandomFloats(kRows * 2 * kCols, 3, 4.0f);
  gate_up[0] = -200.0f;  // exp overflows: silu is 0
  gate_up[1] = 200.0f;
  std::vector<float> out(kRows * kCols, kNan);
  ExpectLaunched(SwiGlu(gate_up.data(), kRows, kCols, out.data(), Stream()));
  for (uint32_t t = 0; t < kRows; ++t) {
    for (uint32_t c = 0; c < kCols; ++c) {
      const double gate = gate_up[t * 2 * kCols + c];
      const double expected = gate / (1 + std::exp(-gate)) * gate_up[(t * 2 + 1) * kCols + c];
      // expf within 2 units in the last place, each two roundings; sum, quotient, product.
      EXPECT_NEAR(out[t * kCols + c], expected, std::abs(expected) * 7 * kEpsilon * 1.01 + 1e-38);
    }
  }
}

struct RotaryShape {
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  bool norms;
};

class RotateAndStoreTest : public testing::TestWithParam<RotaryShape> {};

TEST_P(RotateAndStoreTest, NormalizesRotatesAndStoresEachRowAtItsPosition) {
  const auto [heads, kv_heads, dim, norms] = GetParam();
  constexpr uint32_t kBlockTokens = 4;
  // A sequence at positions 3 and 4 in blocks 2 and 0, a padding row, another at 0 in block 1.
  const std::vector<int32_t> positions = {3, 4, -1, 0};
  const std::vector<uint32_t> tables = {0, 0, 0, 2};
  const std::vector<int32_t> blocks = {2, 0, 1};
  const uint32_t all_heads = heads + 2 * kv_heads;
  const std::vector<float> qkv = RandomFloats(4 * all_heads * dim, 5, 2.0f);
  std::vector<float> angles(4 * dim);
  for (uint32_t i = 0; i < 4 * dim; ++i) {
    const uint32_t row = i / dim;
    const double angle = 0.3 * (row + 1) * (i % dim % (dim / 2) + 1);
    angles[i] = static_cast<float>(i % dim < dim / 2 ? std::cos(angle) : std::sin(angle));
  }
  const std::vector<float> q_norm = RandomFloats(dim, 6), k_norm = RandomFloats(dim, 7);
  KvView kv = {nullptr, 2ull * kv_heads * kBlockTokens * dim, kBlockTokens, kv_heads, dim};
  constexpr uint16_t kUntouched = 0x7BCD;
  std::vector<uint16_t> cache(3 * kv.block_stride, kUntouched);
  kv.keys = cache.data();
  std::vector<float> rotated = qkv;
  ExpectLaunched(RotateAndStore(
      {nullptr, positions.data(), tables.data(), blocks.data(), 4},
      {heads, norms ? q_norm.data() : nullptr, norms ? k_norm.data() : nullptr, 1e-6f},
      angles.data(), rotated.data(), kv, Stream()));

  const auto rotate = [&](uint32_t row, uint32_t head, const std::vector<float>& weight) {
    const float* const x = qkv.data() + (row * all_heads + head) * dim;
    std::vector<double> values(x, x + dim);
    if (norms) {
      double squares = 0;
      for (const double value : values) squares += value * value;
      for (uint32_t i = 0; i < dim; ++i) {
        values[i] *= weight[i] / std::sqrt(squares / dim + double{1e-6f});
      }
    }
    std::vector<double> result(dim);
    for (uint32_t i = 0; i < dim / 2; ++i) {
      const double cosine = angles[row * dim + i], sine = angles[row * dim + dim / 2 + i];
      result[i] = values[i] * cosine - values[i + dim / 2] * sine;
      result[i + dim / 2] = values[i + dim / 2] * cosine + values[i] * sine;
    }
    return result;
  };
  // Of the two products' sizes: the norm's roundings (RmsNormTest), two more of the rotation.
  const double tolerance = 40 * kEpsilon * 16;
  size_t stored = 0;
  for (const uint32_t row : {0u, 1u, 3u}) {
    for (uint32_t head = 0; head < heads; ++head) {
      const std::vector<double> expected = rotate(row, head, q_norm);
      for (uint32_t i = 0; i < dim; ++i) {
        ASSERT_NEAR(rotated[(row * all_heads + head) * dim + i], expected[i], tolerance);
      }
    }
    const int32_t block = row == 0 ? 2 : row == 1 ? 0 : 1;
    const uint32_t slot = static_cast<uint32_t>(positions[row]) % kBlockTokens;
    for (uint32_t head = 0; head < kv_heads; ++head) {
      const uint16_t* const key =
          cache.data() + block * kv.block_stride + (head * kBlockTokens + slot) * dim;
      const std::vector<double> expected = rotate(row, heads + head, k_norm);
      for (uint32_t i = 0; i < dim; ++i) {
        // fp16: 11 bits.
        ASSERT_NEAR(HalfToFloat(key[i]), expected[i], std::abs(expected[i]) * 0x1p-11 + tolerance);
        ASSERT_EQ(key[kv.plane() + i],
                  FloatToHalf(qkv[(row * all_heads + heads + kv_heads + head) * dim + i]));
        stored += 2;
      }
    }
  }
  EXPECT_EQ(cache.size() - std::count(cache.begin(), cache.end(), kUntouched), stored);
  const size_t padding = 2 * all_heads * dim;
  EXPECT_TRUE(std::equal(qkv.begin() + padding, qkv.begin() + padding + all_heads * dim,
                         rotated.begin() + padding));
}

INSTANTIATE_TEST_SUITE_P(Shapes, RotateAndStoreTest,
                         testing::Values(RotaryShape{4, 2, 16, false}, RotaryShape{3, 1, 64, true},
                                         RotaryShape{5, 5, 80, true}, RotaryShape{2, 2, 2, false}));

}  // namespace
}  // namespace quantloom::cuda
