#include <cmath>
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

bool IsHyb(const Format& format) { return format.code == std::string("hyb"); }

// What the code's integers count.
float Unit(const Format& format) {
  const std::string code = format.code;
  return code == "1mad" ? k1MadUnit : code == "3inst" ? 0x1p-13f : code == "hyb" ? 0x1p-9f : 1.0f;
}

// The integer that a product takes for a state's weight `i`.
int StateInteger(const Format& format, uint32_t state, size_t i) {
  const std::string code = format.code;
  if (code == "1mad") return Code1MadInteger(state);
  if (code == "mul1") return CodeMul1Integer(state);
  if (code == "3inst") {
    const uint32_t x = ((state * k3InstMultiplier + k3InstAddend) & k3InstKept) ^ k3InstFlipped;
    return Code3InstHalf(x & 0xFFFF) + Code3InstHalf(x >> 16);
  }
  float pair[2];
  DecodeTrellisState(TrellisCode::kHyb, state, pair);
  return static_cast<int>(std::lround(pair[i] * 512));
}

// The integers that a matrix's states stand for, read from its tiles by the trellis's definition:
// bit j of a tile's ring is bit j % 8 of byte j / 8.
std::vector<int> Integers(const TileMatrix& matrix, const Format& format) {
  std::vector<int> integers(matrix.rows() * matrix.cols());
  const int ring = format.half_bits * 128;
  for (uint64_t r = 0; r < matrix.rows(); ++r) {
    for (uint64_t c = 0; c < matrix.cols(); ++c) {
      const uint8_t* tile = matrix.tile(r / 16, c / 16);
      const size_t weight = r % 16 * 16 + c % 16, in_pair = IsHyb(format) ? weight % 2 : 0;
      const int first = static_cast<int>(weight - in_pair) * format.half_bits / 2;
      uint32_t state = 0;
      for (int i = 0; i < 16; ++i) {
        const int bit = (first + i) % ring;
        state |= static_cast<uint32_t>(tile[bit / 8] >> (bit % 8) & 1) << i;
      }
      integers[r * matrix.cols() + c] = StateInteger(format, state, in_pair);
    }
  }
  return integers;
}

class TrellisProduct : public testing::TestWithParam<Format> {};

// Expects the documented sum for a random matrix of the shape on every target.
void ExpectDocumentedSum(const Format& format, uint64_t rows, uint64_t cols,
                         const std::vector<size_t>& tokens) {
  const RandomTiles tiles = RandomTrellis(format, rows, cols, cols * 50 + rows);
  const auto packed = tiles.Open();
  const auto& matrix = dynamic_cast<const TileMatrix&>(*packed);
  const std::vector<int> integers = Integers(matrix, format);
  const auto op = LinearOperator::FromPacked(tiles.Open());
  ASSERT_EQ(op->activation_form(), ActivationForm::kInt8);
  for (const size_t count : tokens) {
    const Activations x = QuantizedActivations(RandomFloats(count * cols, 7), cols);
    std::vector<float> expected;
    for (size_t t = 0; t < count; ++t) {
      for (uint64_t r = 0; r < rows; ++r) {
        expected.push_back(matrix.scale(r) * Unit(format) * IntegerSum(&integers[r * cols], x, t));
      }
    }
    OnEveryTarget([&](const std::string& target) {
      ASSERT_TRUE(SameBits(Product(*op, x), expected))
          << target << " rows " << rows << " cols " << cols << " tokens " << count;
    });
  }
}

TEST_P(TrellisProduct, IsTheDocumentedSumForEveryShape) {
  for (const uint64_t cols : {1, 15, 16, 17, 48, 63, 64, 65, 100, 256, 300, 576}) {
    for (const uint64_t rows : {1, 16, 37}) ExpectDocumentedSum(GetParam(), rows, cols, {1, 2, 7});
  }
}

TEST_P(TrellisProduct, IsTheDocumentedSumOfNearlyAllStates) {
  ExpectDocumentedSum(GetParam(), 64, 4096, {1, 4});  // four times as many as there are states
}

TEST_P(TrellisProduct, ManyTokensAndAnyRowSplitGiveTheBitsOfOneToken) {
  const RandomTiles tiles = RandomTrellis(GetParam(), 53, 576, 3);
  ExpectTokensAndRowSplitsAgree(*LinearOperator::FromPacked(tiles.Open()), 70);
}

INSTANTIATE_TEST_SUITE_P(
    All, TrellisProduct,
    testing::Values(Format{"mul1", 2}, Format{"mul1", 3}, Format{"mul1", 4}, Format{"mul1", 5},
                    Format{"mul1", 6}, Format{"mul1", 7}, Format{"mul1", 8}, Format{"1mad", 2},
                    Format{"1mad", 3}, Format{"1mad", 4}, Format{"1mad", 5}, Format{"1mad", 6},
                    Format{"1mad", 7}, Format{"1mad", 8}, Format{"3inst", 2}, Format{"3inst", 3},
                    Format{"3inst", 4}, Format{"3inst", 5}, Format{"3inst", 6}, Format{"3inst", 7},
                    Format{"3inst", 8}, Format{"hyb", 2}, Format{"hyb", 3}, Format{"hyb", 4},
                    Format{"hyb", 5}, Format{"hyb", 6}, Format{"hyb", 7}, Format{"hyb", 8}));

// How far a product's integers are from the values that codecs decode to: relative to a value, and
// in units.
struct IntegerError {
  const char* code;
  double relative, units;
};
constexpr IntegerError kIntegerErrors[] = {
    {"mul1", 0, 0}, {"1mad", 0x1p-24, 0}, {"3inst", 0x1p-11, 0}, {"hyb", 0, 0.5}};

TEST(TrellisIntegers, EveryStatesAreWithinTheDocumentedDistanceOfItsValues) {
  constexpr TrellisCode kCodes[] = {TrellisCode::kMul1, TrellisCode::k1Mad, TrellisCode::k3Inst,
                                    TrellisCode::kHyb};
  for (size_t i = 0; i < 4; ++i) {
    const Format format = {kIntegerErrors[i].code, 4};
    const auto weights = static_cast<size_t>(WeightsPerState(kCodes[i]));
    for (uint32_t state = 0; state < kTrellisStates; ++state) {
      for (size_t w = 0; w < weights; ++w) {
        const double value = TrellisCodebook(kCodes[i])[state * weights + w];
        const double unit = Unit(format);
        ASSERT_LE(std::fabs(StateInteger(format, state, w) * unit - value),
                  kIntegerErrors[i].relative * std::fabs(value) + kIntegerErrors[i].units * unit)
            << format.code << " state " << state;
      }
    }
  }
}

TEST(TrellisOperator, ErrorComesFromQuantizedActivationsAndRoundedValuesAlone) {
  const uint64_t rows = 20, cols = 1536;
  for (const IntegerError& error : kIntegerErrors) {
    const Format format = {error.code, 4};
    const RandomTiles tiles = RandomTrellis(format, rows, cols, 5);
    const auto matrix = tiles.Open();
    std::vector<float> weights(rows * cols);
    matrix->DecodeTile(0, rows, 0, cols, weights.data(), cols);
    SCOPED_TRACE(error.code);
    ExpectErrorOfActivationsAlone(
        *LinearOperator::FromPacked(tiles.Open()), weights, [&](size_t row, size_t column) {
          const double scale = dynamic_cast<const TileMatrix&>(*matrix).scale(row);
          return error.relative * std::fabs(weights[row * cols + column]) +
                 error.units * Unit(format) * std::fabs(scale);
        });
  }
}

TEST(TrellisOperator, DecodeRowGivesTheCodecsValues) {
  const uint64_t rows = 19, cols = 100;
  const RandomTiles tiles = RandomTrellis({"1mad", 5}, rows, cols, 1);
  std::vector<float> expected(rows * cols), actual(rows * cols);
  tiles.Open()->DecodeTile(0, rows, 0, cols, expected.data(), cols);
  const auto op = LinearOperator::FromPacked(tiles.Open());
  for (uint64_t r = 0; r < rows; ++r) op->DecodeRow(r, &actual[r * cols]);
  EXPECT_TRUE(SameBits(actual, expected));
}

TEST(TrellisOperator, WeightBytesAreThoseOfTheTiles) {
  const RandomTiles tiles = RandomTrellis({"mul1", 6}, 64, 1024, 1);
  EXPECT_EQ(LinearOperator::FromPacked(tiles.Open())->weight_bytes(), 64u * 1024 * 3 / 8);
}

TEST(TrellisOperator, HigherRatesAreDecoded) {
  for (const Format& format : {Format{"3inst", 10}, Format{"mul1", 10}}) {
    const RandomTiles tiles = RandomTrellis(format, 20, 100, 1);
    EXPECT_EQ(LinearOperator::FromPacked(tiles.Open())->activation_form(), ActivationForm::kFloat);
  }
}

}  // namespace
}  // namespace quantloom::cpu
