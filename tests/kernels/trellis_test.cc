#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis_code.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/every_target.h"
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

// The documented sum of the integer form, in plain scalar code.
float IntegerSum(const int* integers, const Activations& x, size_t token) {
  float lanes[16] = {};
  for (size_t group = 0; group < x.groups(); ++group) {
    int32_t blocks[16] = {};
    const size_t begin = group * 256, end = std::min<size_t>(begin + 256, x.cols());
    for (size_t c = begin; c < end; ++c) {
      blocks[c % 64 / 4] += integers[c] * x.codes(token)[c];
    }
    for (size_t l = 0; l < 16; ++l) {
      lanes[l] = std::fma(static_cast<float>(blocks[l]), x.scales(token)[group * 16 + l], lanes[l]);
    }
  }
  for (size_t width = 8; width > 0; width /= 2) {
    for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

std::vector<float> Product(const LinearOperator& op, const Activations& x) {
  std::vector<float> y(x.tokens() * op.rows());
  op.Multiply(x, 0, op.rows(), y.data(), op.rows());
  return y;
}

Activations Assign(const std::vector<float>& x, size_t cols) {
  Activations activations;
  activations.Assign(x.data(), x.size() / cols, cols, cols, /*quantize=*/true);
  return activations;
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
        const Activations x = Assign(RandomFloats(tokens * cols, 7), cols);
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
  const size_t rows = 53, cols = 576, tokens = 70;
  const RandomTiles tiles = RandomTrellis(GetParam(), rows, cols, 3);
  const auto op = LinearOperator::FromPacked(tiles.Open());
  const std::vector<float> x = RandomFloats(tokens * cols, 12);
  std::vector<float> one_by_one;
  for (size_t t = 0; t < tokens; ++t) {
    const auto first = x.begin() + static_cast<int64_t>(t * cols);
    const std::vector<float> y = Product(*op, Assign({first, first + cols}, cols));
    one_by_one.insert(one_by_one.end(), y.begin(), y.end());
  }
  const Activations batch = Assign(x, cols);
  OnEveryTarget([&](const std::string&) {
    for (const size_t grain : {1, 5, 16, 53}) {
      std::vector<float> y(tokens * rows);
      for (size_t r = 0; r < rows; r += grain) {
        op->Multiply(batch, r, std::min(r + grain, rows), y.data(), rows);
      }
      EXPECT_TRUE(SameBits(y, one_by_one)) << grain;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, ByteSumTrellisTest,
                         testing::Values(Format{"mul1", 2}, Format{"mul1", 3}, Format{"mul1", 4},
                                         Format{"mul1", 5}, Format{"mul1", 6}, Format{"mul1", 7},
                                         Format{"mul1", 8}, Format{"1mad", 2}, Format{"1mad", 3},
                                         Format{"1mad", 4}, Format{"1mad", 5}, Format{"1mad", 6},
                                         Format{"1mad", 7}, Format{"1mad", 8}));

TEST(ByteSumTrellis, ErrorComesFromQuantizedActivationsAlone) {
  // Against the decoded weights in double precision: each activation is off by at most half a step
  // of its block, each addition by its rounding.
  const uint64_t rows = 20, cols = 1536;
  const RandomTiles tiles = RandomTrellis({"mul1", 4}, rows, cols, 5);
  std::vector<float> weights(rows * cols);
  tiles.Open()->DecodeTile(0, rows, 0, cols, weights.data(), cols);
  const std::vector<float> x = RandomFloats(cols, 6);
  const Activations a = Assign(x, cols);
  const std::vector<float> y = Product(*LinearOperator::FromPacked(tiles.Open()), a);
  for (uint64_t r = 0; r < rows; ++r) {
    double expected = 0, bound = 0, magnitude = 0;
    for (uint64_t c = 0; c < cols; ++c) {
      const double w = weights[r * cols + c];
      expected += w * x[c];
      bound += std::fabs(w) * a.scales(0)[c / 256 * 16 + c % 64 / 4] * 0.5001;
      magnitude += std::fabs(w * x[c]);
    }
    EXPECT_NEAR(y[r], expected, bound + 1e-5 * magnitude);
    EXPECT_GT(bound, 0);
  }
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

TEST(ByteSumTrellis, OtherCodesAndRatesAreDecoded) {
  for (const Format& format : {Format{"3inst", 4}, Format{"hyb", 4}, Format{"mul1", 10}}) {
    const RandomTiles tiles = RandomTrellis(format, 20, 100, 1);
    EXPECT_FALSE(LinearOperator::FromPacked(tiles.Open())->needs_quantized_activations());
  }
}

}  // namespace
}  // namespace quantloom::cpu
