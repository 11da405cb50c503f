#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis_code.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/every_target.h"
#include "tests/kernels/integer_sum.h"
#include "tests/random_tiles.h"

namespace quantloom::cpu {
namespace {

struct Format {
  const char* code;
  int half_bits;
};

void PrintTo(const Format& f, std::ostream* out) { *out << f.code << " " << f.half_bits / 2.0; }

RandomTiles RandomTrellis(const Format& format, uint64_t rows, uint64_t cols, uint32_t seed) {
  return RandomTiles(absl::StrCat("qtip:bits=", format.half_bits / 2.0, ",code=", format.code,
                                  ",incoherence=none,rounding=nearest,scales=row"),
                     rows, cols, 16, 16, static_cast<uint64_t>(format.half_bits) * 16, seed);
}

// The integers that a matrix's states stand for, read from its tiles by the trellis's definition:
// bit j of a tile's ring is bit j % 8 of byte j / 8.
std::vector<int> Integers(const TileMatrix& matrix, const Format& format) {
  std::vector<int> integers(matrix.rows() * matrix.cols());
  const int ring = format.half_bits * 128;
  for (uint64_t r = 0; r < matrix.rows(); ++r) {
    for (uint64_t c = 0; c < matrix.cols(); ++c) {
      const uint8_t* tile = matrix.tile(r / 16, c / 16);
      const int first = static_cast<int>(r % 16 * 16 + c % 16) * format.half_bits / 2;
      uint32_t state = 0;
      for (int i = 0; i < 16; ++i) {
        const int bit = (first + i) % ring;
        state |= static_cast<uint32_t>(tile[bit / 8] >> (bit % 8) & 1) << i;
      }
      integers[r * matrix.cols() + c] =
          format.code == std::string("1mad") ? Code1MadInteger(state) : CodeMul1Integer(state);
    }
  }
  return integers;
}

class ByteSumTrellisTest : public testing::TestWithParam<Format> {};

TEST_P(ByteSumTrellisTest, ProductIsTheDocumentedSumForEveryShape) {
  const float unit = GetParam().code == std::string("1mad") ? k1MadUnit : 1.0f;
  for (const uint64_t cols : {1, 15, 16, 17, 48, 63, 64, 65, 100, 256, 300, 576}) {
    for (const uint64_t rows : {1, 16, 37}) {
      const RandomTiles tiles = RandomTrellis(GetParam(), rows, cols, cols * 50 + rows);
      const auto packed = tiles.Open();
      const auto& matrix = dynamic_cast<const TileMatrix&>(*packed);
      const std::vector<int> integers = Integers(matrix, GetParam());
      const auto op = LinearOperator::FromPacked(tiles.Open());
      ASSERT_TRUE(op->needs_quantized_activations());
      for (const size_t tokens : {1, 2, 7}) {
        const Activations x = QuantizedActivations(RandomFloats(tokens * cols, 7), cols);
        std::vector<float> expected;
        for (size_t t = 0; t < tokens; ++t) {
          for (uint64_t r = 0; r < rows; ++r) {
            expected.push_back(matrix.scale(r) * unit * IntegerSum(&integers[r * cols], x, t));
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

TEST_P(ByteSumTrellisTest, ManyTokensAndAnyRowSplitGiveTheBitsOfOneToken) {
  const RandomTiles tiles = RandomTrellis(GetParam(), 53, 576, 3);
  ExpectTokensAndRowSplitsAgree(*LinearOperator::FromPacked(tiles.Open()), 70);
}

INSTANTIATE_TEST_SUITE_P(All, ByteSumTrellisTest,
                         testing::Values(Format{"mul1", 2}, Format{"mul1", 3}, Format{"mul1", 4},
                                         Format{"mul1", 5}, Format{"mul1", 6}, Format{"mul1", 7},
                                         Format{"mul1", 8}, Format{"1mad", 2}, Format{"1mad", 3},
                                         Format{"1mad", 4}, Format{"1mad", 5}, Format{"1mad", 6},
                                         Format{"1mad", 7}, Format{"1mad", 8}));

TEST(ByteSumTrellis, ErrorComesFromQuantizedActivationsAlone) {
  const uint64_t rows = 20, cols = 1536;
  const RandomTiles tiles = RandomTrellis({"mul1", 4}, rows, cols, 5);
  std::vector<float> weights(rows * cols);
  tiles.Open()->DecodeTile(0, rows, 0, cols, weights.data(), cols);
  ExpectErrorOfActivationsAlone(*LinearOperator::FromPacked(tiles.Open()), weights);
}

TEST(ByteSumTrellis, DecodeRowGivesTheCodecsValues) {
  const uint64_t rows = 19, cols = 100;
  const RandomTiles tiles = RandomTrellis({"1mad", 5}, rows, cols, 1);
  std::vector<float> expected(rows * cols), actual(rows * cols);
  tiles.Open()->DecodeTile(0, rows, 0, cols, expected.data(), cols);
  const auto op = LinearOperator::FromPacked(tiles.Open());
  for (uint64_t r = 0; r < rows; ++r) op->DecodeRow(r, &actual[r * cols]);
  EXPECT_TRUE(SameBits(actual, expected));
}

TEST(ByteSumTrellis, WeightBytesAreThoseOfTheTiles) {
  const RandomTiles tiles = RandomTrellis({"mul1", 6}, 64, 1024, 1);
  EXPECT_EQ(LinearOperator::FromPacked(tiles.Open())->weight_bytes(), 64u * 1024 * 3 / 8);
}

class HalfTrellisTest : public testing::TestWithParam<Format> {};

TEST_P(HalfTrellisTest, ProductIsTheSixteenLaneSumOfTheCodecsValues) {
  for (const uint64_t cols : {1, 15, 16, 17, 40, 100}) {
    for (const uint64_t rows : {1, 16, 37}) {
      const RandomTiles tiles = RandomTrellis(GetParam(), rows, cols, cols * 50 + rows);
      std::vector<float> weights(rows * cols);
      tiles.Open()->DecodeTile(0, rows, 0, cols, weights.data(), cols);
      const auto op = LinearOperator::FromPacked(tiles.Open());
      const std::vector<float> x = RandomFloats(2 * cols, 7);
      Activations activations;
      activations.Assign(x.data(), 2, cols, cols, op->needs_quantized_activations());
      std::vector<float> expected;
      for (size_t t = 0; t < 2; ++t) {
        for (uint64_t r = 0; r < rows; ++r) {
          expected.push_back(SixteenLaneDot(&weights[r * cols], &x[t * cols], cols));
        }
      }
      OnEveryTarget([&](const std::string& target) {
        for (const size_t grain : {size_t{5}, size_t{rows}}) {
          std::vector<float> y(2 * rows);
          for (size_t r = 0; r < rows; r += grain) {
            op->Multiply(activations, r, std::min<size_t>(r + grain, rows), y.data(), rows);
          }
          ASSERT_TRUE(SameBits(y, expected)) << target << " rows " << rows << " cols " << cols;
        }
      });
    }
  }
}

TEST_P(HalfTrellisTest, StatesDecodeToTheirValues) {
  const RandomTiles tiles = RandomTrellis(GetParam(), 512, 512, 4);
  std::vector<float> expected(512 * 512);
  tiles.Open()->DecodeTile(0, 512, 0, 512, expected.data(), 512);
  const auto op = LinearOperator::FromPacked(tiles.Open());
  for (size_t c = 0; c < 512; c += 37) {
    std::vector<float> unit(512);
    unit[c] = 1;
    Activations x;
    x.Assign(unit.data(), 1, 512, 512, false);
    OnEveryTarget([&](const std::string&) {
      const std::vector<float> y = Product(*op, x);
      for (size_t r = 0; r < 512; ++r) ASSERT_EQ(y[r], expected[r * 512 + c]) << r << ", " << c;
    });
  }
}

INSTANTIATE_TEST_SUITE_P(All, HalfTrellisTest,
                         testing::Values(Format{"3inst", 2}, Format{"3inst", 3}, Format{"3inst", 4},
                                         Format{"3inst", 5}, Format{"3inst", 6}, Format{"3inst", 7},
                                         Format{"3inst", 8}, Format{"hyb", 2}, Format{"hyb", 3},
                                         Format{"hyb", 4}, Format{"hyb", 5}, Format{"hyb", 6},
                                         Format{"hyb", 7}, Format{"hyb", 8}));

TEST(ByteSumTrellis, OtherCodesAndRatesAreDecoded) {
  for (const Format& format : {Format{"3inst", 4}, Format{"hyb", 4}, Format{"mul1", 10}}) {
    const RandomTiles tiles = RandomTrellis(format, 20, 100, 1);
    EXPECT_FALSE(LinearOperator::FromPacked(tiles.Open())->needs_quantized_activations());
  }
}

}  // namespace
}  // namespace quantloom::cpu
