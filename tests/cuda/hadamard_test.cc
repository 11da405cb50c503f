// The Hadamard transform against core/transform's, which has its own reference.
#include "kernels/cuda/hadamard.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/transform/incoherence.h"
#include "gtest/gtest.h"
#include "kernels/cuda/hadamard_factors.h"
#include "tests/cuda/launch_seed.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;

// T x or T^T x of core's transform, in double: the sum that either adds in some order.
std::vector<double> Reference(size_t cols, HadamardBlocks blocks, Direction direction,
                              const std::vector<float>& x) {
  const HadamardTransform transform(cols, blocks, RandomSigns(3, cols));
  std::vector<double> result(x.begin(), x.end());
  ThreadTeam team(1);
  transform.ApplyToRows(direction, absl::MakeSpan(result), team);
  return result;
}

struct Case {
  uint32_t cols;
  HadamardBlocks blocks;
};

class TransformRowsTest : public testing::TestWithParam<Case> {};

TEST_P(TransformRowsTest, IsTheStoredMatricesTransform) {
  const auto [cols, blocks] = GetParam();
  constexpr uint32_t kRows = 2;
  const std::vector<float> signs = RandomSigns(3, cols);
  const std::vector<float> x = RandomFloats(kRows * cols, cols);
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const bool forward = direction == Direction::kForward;
    const HadamardSigns made = MakeHadamardSigns(cols, blocks, direction);
    const HadamardView view = made.View(made.words.data(), forward ? signs.data() : nullptr,
                                        forward ? nullptr : signs.data());
    const std::vector<double> expected = Reference(cols, blocks, direction, x);
    // Each output is a sum of `order` values with one sign each: in whatever order, its error is at
    // most (additions on a path + 3 products) roundings of the sum of magnitudes. Factors add
    // `order` values in turn, Sylvester's log2(power).
    double additions = std::log2(made.power);
    double order = made.power;
    for (const auto& factor : made.factors) {
      additions += factor.order;
      order *= factor.order;
    }
    for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
      const uint32_t stride = cols + 5;
      std::vector<float> out(kRows * stride, 77.0f);
      const char* const error =
          TransformRows(view, x.data(), cols, kRows, out.data(), stride, Stream());
      ASSERT_EQ(error, nullptr) << error;
      for (uint32_t t = 0; t < kRows; ++t) {
        double norm = 0;  // bounds the sum of magnitudes with Cauchy and Schwarz
        for (uint32_t c = 0; c < cols; ++c) norm += double{x[t * cols + c]} * x[t * cols + c];
        const double bound = (additions + 3) * 0x1p-24 * std::sqrt(norm);
        for (uint32_t c = 0; c < cols; ++c) {
          ASSERT_NEAR(out[t * stride + c], expected[t * cols + c], bound) << "column " << c;
        }
        for (uint32_t c = cols; c < stride; ++c) ASSERT_EQ(out[t * stride + c], 77.0f);
      }
      std::vector<float> in_place = x;
      ASSERT_EQ(TransformRows(view, in_place.data(), cols, kRows, in_place.data(), cols, Stream()),
                nullptr);
      for (uint32_t t = 0; t < kRows; ++t) {
        ASSERT_TRUE(std::equal(in_place.begin() + t * cols, in_place.begin() + (t + 1) * cols,
                               out.begin() + t * stride));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, TransformRowsTest,
    testing::Values(Case{1, HadamardBlocks::kFull},     // the identity
                    Case{9, HadamardBlocks::kFull},     // blocks of one element
                    Case{64, HadamardBlocks::kFull},    // less than a chunk
                    Case{576, HadamardBlocks::kFull},   // 36 x 16
                    Case{1536, HadamardBlocks::kFull},  // 12 x 128
                    Case{2304, HadamardBlocks::kFull},  // two small factors or a large one
                    Case{172, HadamardBlocks::kFull},   // no Sylvester factor
                    Case{8192, HadamardBlocks::kFull},  // more than kMaxSylvester
                    Case{1408, HadamardBlocks::k128},   // more than a chunk of blocks
                    Case{96, HadamardBlocks::k128}),
    [](const auto& test) {
      return absl::StrCat(test.param.cols,
                          test.param.blocks == HadamardBlocks::kFull ? "Full" : "Block128");
    });

}  // namespace
}  // namespace quantloom::cuda
