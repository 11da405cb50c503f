#include "core/codec/e8p.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/codec/tile_matrix.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/every_target.h"
#include "tests/kernels/integer_sum.h"
#include "tests/random_tiles.h"

namespace quantloom::cpu {
namespace {

RandomTiles RandomE8p(int bits, uint64_t rows, uint64_t cols, uint32_t seed) {
  return RandomTiles(
      absl::StrCat("quip:bits=", bits, ",incoherence=none,rounding=nearest,scales=row"), rows, cols,
      1, 8, static_cast<uint64_t>(bits), seed);
}

// The integers of a row's first or second stage, by the codebooks' definition.
std::vector<int> Integers(const TileMatrix& matrix, int bits, int stage, uint64_t row) {
  std::vector<int> integers;
  for (uint64_t v = 0; v < matrix.grid().col_tiles; ++v) {
    const uint8_t* const code = matrix.tile(row, v) + (stage == 0 ? 0 : 2);
    int8_t vector[8] = {};
    if (stage == 1 && bits == 3) {
      std::copy_n(kE8OneBitTable.entry[code[0]], 8, vector);
    } else {
      DecodeE8p(kE8pTable, static_cast<uint16_t>(code[0] | code[1] << 8), vector);
    }
    integers.insert(integers.end(), vector, vector + 8);
  }
  return integers;
}

class E8pProduct : public testing::TestWithParam<int> {};

TEST_P(E8pProduct, IsTheDocumentedSumForEveryShape) {
  const int bits = GetParam();
  const E8pRate rate = *E8pRateOfBits(bits);
  for (const uint64_t cols : {1, 7, 8, 9, 56, 63, 64, 65, 100, 256, 300, 576}) {
    for (const uint64_t rows : {1, 4, 11}) {
      const RandomTiles tiles = RandomE8p(bits, rows, cols, cols * 50 + rows);
      const auto packed = tiles.Open();
      const auto& matrix = dynamic_cast<const TileMatrix&>(*packed);
      const auto op = LinearOperator::FromPacked(tiles.Open());
      ASSERT_EQ(op->activation_form(), ActivationForm::kInt8);
      for (const size_t tokens : {1, 2, 7}) {
        const Activations x = QuantizedActivations(RandomFloats(tokens * cols, 7), cols);
        std::vector<float> expected(tokens * rows);
        for (uint64_t r = 0; r < rows; ++r) {
          const std::vector<int> first = Integers(matrix, bits, 0, r);
          const std::vector<int> second = Integers(matrix, bits, bits == 2 ? 0 : 1, r);
          for (size_t t = 0; t < tokens; ++t) {
            float sum = IntegerSum(first.data(), x, t);
            if (bits > 2) {
              sum = std::fma(rate.residual_step() / kE8pUnit, IntegerSum(second.data(), x, t), sum);
            }
            expected[t * rows + r] = matrix.scale(r) * kE8pUnit * sum;
          }
        }
        OnEveryTarget([&](const std::string& target) {
          ASSERT_TRUE(SameBits(Product(*op, x), expected))
              << target << " rows " << rows << " cols " << cols << " tokens " << tokens;
        });
      }
    }
  }
}

TEST_P(E8pProduct, DecodesRandomCodesCoordinateByCoordinate) {
  // 2^16 random codes, of which activations select one coordinate at a time.
  const int bits = GetParam();
  constexpr uint64_t kCols = 512, kRows = 1024;
  const RandomTiles tiles = RandomE8p(bits, kRows, kCols, 9);
  const auto packed = tiles.Open();
  const auto& matrix = dynamic_cast<const TileMatrix&>(*packed);
  const auto op = LinearOperator::FromPacked(tiles.Open());
  for (uint64_t c = 0; c < 8; ++c) {
    std::vector<float> x(kCols);
    for (uint64_t v = 0; v < kCols / 8; ++v) x[8 * v + c] = 1;
    const std::vector<float> y = Product(*op, QuantizedActivations(x, kCols));
    for (uint64_t r = 0; r < kRows; ++r) {
      int sums[2] = {};
      for (int stage = 0; stage < (bits == 2 ? 1 : 2); ++stage) {
        const std::vector<int> integers = Integers(matrix, bits, stage, r);
        for (uint64_t v = 0; v < kCols / 8; ++v) sums[stage] += integers[8 * v + c];
      }
      const E8pRate rate = *E8pRateOfBits(bits);
      const double unit = bits == 2 ? 0.0 : rate.residual_step() / kE8pUnit;
      const double expected = matrix.scale(r) * kE8pUnit * (sums[0] + unit * sums[1]);
      ASSERT_NEAR(y[r], expected, 1e-5 * std::fabs(matrix.scale(r)) * kCols) << r << ", " << c;
    }
  }
}

TEST_P(E8pProduct, ManyTokensAndAnyRowSplitGiveTheBitsOfOneToken) {
  const RandomTiles tiles = RandomE8p(GetParam(), 53, 576, 3);
  ExpectTokensAndRowSplitsAgree(*LinearOperator::FromPacked(tiles.Open()), 70);
}

TEST_P(E8pProduct, ErrorComesFromQuantizedActivationsAlone) {
  const uint64_t rows = 20, cols = 1536;
  const RandomTiles tiles = RandomE8p(GetParam(), rows, cols, 5);
  std::vector<float> weights(rows * cols);
  tiles.Open()->DecodeTile(0, rows, 0, cols, weights.data(), cols);
  ExpectErrorOfActivationsAlone(*LinearOperator::FromPacked(tiles.Open()), weights);
}

TEST_P(E8pProduct, DecodeRowGivesTheCodecsValues) {
  const uint64_t rows = 5, cols = 100;
  const RandomTiles tiles = RandomE8p(GetParam(), rows, cols, 1);
  std::vector<float> expected(rows * cols), actual(rows * cols);
  tiles.Open()->DecodeTile(0, rows, 0, cols, expected.data(), cols);
  const auto op = LinearOperator::FromPacked(tiles.Open());
  for (uint64_t r = 0; r < rows; ++r) op->DecodeRow(r, &actual[r * cols]);
  EXPECT_TRUE(SameBits(actual, expected));
}

TEST_P(E8pProduct, WeightBytesAreThoseOfTheCodes) {
  const RandomTiles tiles = RandomE8p(GetParam(), 64, 1024, 1);
  EXPECT_EQ(LinearOperator::FromPacked(tiles.Open())->weight_bytes(),
            64u * 1024 / 8 * static_cast<unsigned>(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Rates, E8pProduct, testing::Values(2, 3, 4));

}  // namespace
}  // namespace quantloom::cpu
