// Hessians summed on the device against the host's, bit for bit.
#include "kernels/cuda/hessian.h"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/rounding/hessian.h"
#include "gtest/gtest.h"
#include "tests/cuda/launch_seed.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

// The lower triangle of [n, n], row by row.
std::vector<double> LowerTriangle(absl::Span<const double> square, uint32_t n) {
  std::vector<double> values;
  for (uint32_t i = 0; i < n; ++i) {
    for (uint32_t j = 0; j <= i; ++j) values.push_back(square[size_t{i} * n + j]);
  }
  return values;
}

// A sum over several calls.
class DeviceSum {
 public:
  explicit DeviceSum(uint32_t n)
      : n_(n), sum_(size_t{n} * n, std::numeric_limits<double>::quiet_NaN()) {}

  void Add(const std::vector<float>& inputs) {
    const HessianUpdate update = {.inputs = inputs.data(),
                                  .tokens = static_cast<uint32_t>(inputs.size() / n_),
                                  .n = n_,
                                  .sum = sum_.data(),
                                  .first = first_};
    const char* const error = AddToHessian(update, Stream{});
    EXPECT_EQ(error, nullptr) << error;
    first_ = false;
  }
  std::vector<double> lower() const { return LowerTriangle(sum_, n_); }

 private:
  uint32_t n_;
  std::vector<double> sum_;
  bool first_ = true;
};

class AddToHessianTest : public testing::TestWithParam<std::pair<uint32_t, uint32_t>> {};

TEST_P(AddToHessianTest, LeavesTheHostsBits) {
  const auto [n, tokens] = GetParam();
  ThreadTeam team(1);
  Hessian expected(n);
  DeviceSum sum(n);
  launch_seed = 5;
  for (uint32_t call = 0; call < 2; ++call) {
    const std::vector<float> inputs = cpu::RandomFloats(size_t{tokens} * n, 11 + call);
    expected.Accumulate(inputs, team);
    sum.Add(inputs);
  }
  EXPECT_EQ(sum.lower(), LowerTriangle(expected.data(), n));
}

// Tiles of the matrix and chunks of tokens: none whole, whole ones, and more.
INSTANTIATE_TEST_SUITE_P(Shapes, AddToHessianTest,
                         testing::Values(std::pair{1u, 1u}, std::pair{3u, 5u}, std::pair{64u, 256u},
                                         std::pair{128u, 257u}, std::pair{129u, 8u},
                                         std::pair{300u, 530u}),
                         [](const auto& param) {
                           return absl::StrCat("N", param.param.first, "Tokens",
                                               param.param.second);
                         });

// Of a chunk's 256 products, summed by fused multiply-adds of relative error u = 2^-24 each, every
// one passes at most 256 roundings, so the sum differs from the exact one by at most
// ((1 + u)^256 - 1) sum |x_i x_j|; fp64 sums of the chunks add less than 2^-50 of that.
TEST(AddToHessian, IsWithinItsBoundOfTheExactSum) {
  constexpr uint32_t kN = 40, kTokens = 700;
  const std::vector<float> inputs = cpu::RandomFloats(kTokens * kN, 3);
  DeviceSum sum(kN);
  sum.Add(inputs);
  const std::vector<double> found = sum.lower();
  const double relative = std::pow(1 + 0x1p-24, 256) - 1 + 0x1p-50;
  size_t at = 0;
  bool rounded = false;
  for (uint32_t i = 0; i < kN; ++i) {
    for (uint32_t j = 0; j <= i; ++j, ++at) {
      double exact = 0, magnitude = 0;
      for (uint32_t t = 0; t < kTokens; ++t) {
        const double product =
            static_cast<double>(inputs[t * kN + i]) * static_cast<double>(inputs[t * kN + j]);
        exact += product;
        magnitude += std::fabs(product);
      }
      ASSERT_LE(std::fabs(found[at] - exact), relative * magnitude) << i << ", " << j;
      rounded |= found[at] != exact;
    }
  }
  EXPECT_TRUE(rounded);
}

TEST(AddToHessian, NotANumberStaysInItsRowAndColumn) {
  constexpr uint32_t kN = 130, kTokens = 9;
  std::vector<float> inputs = cpu::RandomFloats(kTokens * kN, 4);
  inputs[(kTokens - 1) * kN + 7] = std::numeric_limits<float>::infinity();
  DeviceSum sum(kN);
  sum.Add(inputs);
  const std::vector<double> found = sum.lower();
  size_t at = 0;
  for (uint32_t i = 0; i < kN; ++i) {
    for (uint32_t j = 0; j <= i; ++j, ++at) {
      EXPECT_EQ(std::isfinite(found[at]), i != 7 && j != 7) << i << ", " << j;
    }
  }
}

}  // namespace
}  // namespace quantloom::cuda
