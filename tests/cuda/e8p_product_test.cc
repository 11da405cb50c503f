// Products with QuIP#'s vectors: integers decoded bit for bit, sums as documented.
#include <algorithm>
#include <cmath>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/codec/e8p.h"
#include "core/codec/tile_matrix.h"
#include "gtest/gtest.h"
#include "tests/cuda/prepared_activations.h"
#include "tests/kernels/random_floats.h"
#include "tests/random_tiles.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;

// Both stages' integers of a weight.
struct Integers {
  int first;
  int second;
};

class E8pProductTest : public testing::TestWithParam<int> {
 protected:
  static RandomTiles Tiles(uint64_t rows, uint64_t cols, uint32_t seed) {
    return RandomTiles(
        absl::StrCat("quip:bits=", GetParam(), ",incoherence=none,rounding=nearest,scales=row"),
        rows, cols, 1, 8, static_cast<uint64_t>(GetParam()), seed);
  }

  static MatrixImage Image(const PackedMatrix& matrix) {
    ThreadTeam team(2);
    absl::StatusOr<MatrixImage> image = PackedMatrixImage(matrix, MatrixUse::kProduct, team);
    EXPECT_TRUE(image.ok()) << image.status();
    EXPECT_TRUE(std::holds_alternative<E8pView>(image->view));
    return *std::move(image);
  }

  static std::vector<Integers> Decode(const TileMatrix& matrix) {
    std::vector<Integers> integers;
    for (uint64_t row = 0; row < matrix.rows(); ++row) {
      for (uint64_t c = 0; c < matrix.cols(); ++c) {
        const uint8_t* const code = matrix.tile(row, c / 8);
        int8_t first[8];
        DecodeE8p(kE8pTable, static_cast<uint16_t>(code[0] | code[1] << 8), first);
        int8_t second[8] = {};
        if (GetParam() == 3) std::copy_n(kE8OneBitTable.entry[code[2]], 8, second);
        if (GetParam() == 4) {
          DecodeE8p(kE8pTable, static_cast<uint16_t>(code[2] | code[3] << 8), second);
        }
        integers.push_back({first[c % 8], second[c % 8]});
      }
    }
    return integers;
  }

  // Both stages' panels sum exactly and are combined; eight partial sums take slabs of panels in
  // turn, and are added.
  static float DocumentedSum(const TileMatrix& matrix, const std::vector<Integers>& integers,
                             const PreparedActivations& x, uint32_t row, uint32_t token) {
    const uint32_t slab_panels = GetParam() == 2 ? 4 : 2;
    const E8pRate rate = *E8pRateOfBits(GetParam());
    const float unit = GetParam() == 2 ? 0 : rate.residual_step() / 0.25f;
    float partial[8] = {};
    for (uint32_t panel = 0; panel < x.view().panels; ++panel) {
      int first = 0, second = 0;
      const auto end = std::min<uint64_t>((panel + 1) * 128, matrix.cols());
      for (uint32_t c = panel * 128; c < end; ++c) {
        const Integers& w = integers[row * matrix.cols() + c];
        first += w.first * static_cast<int>(x.Element(token, c));
        second += w.second * static_cast<int>(x.Element(token, c));
      }
      const float sum = std::fma(unit, static_cast<float>(second), static_cast<float>(first));
      float& mine = partial[panel / slab_panels % 8];
      mine = std::fma(sum, x.Scale(token, panel), mine);
    }
    float total = 0;
    for (const float sum : partial) total += sum;
    return matrix.scale(row) * 0.25f * total;
  }
};
INSTANTIATE_TEST_SUITE_P(Bits, E8pProductTest, testing::Values(2, 3, 4));

TEST_P(E8pProductTest, IsTheDocumentedSumForEveryShape) {
  // Rows, columns and tokens that do not fill their vectors, tiles, panels, slabs or passes.
  const uint32_t shapes[][3] = {{1, 1, 1},     {16, 128, 1}, {17, 129, 9}, {5, 255, 8},
                                {33, 700, 16}, {16, 40, 75}, {3, 5000, 1}};
  for (const auto& [rows, cols, tokens] : shapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const RandomTiles tiles = Tiles(rows, cols, rows + cols);
    const auto packed = tiles.Open();
    const auto& matrix = dynamic_cast<const TileMatrix&>(*packed);
    const MatrixImage image = Image(matrix);
    const std::vector<Integers> integers = Decode(matrix);
    const PreparedActivations x(ActivationForm::kInt8, RandomFloats(size_t{tokens} * cols, 7),
                                tokens, cols);
    for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
      const std::vector<float> y = Product(image, x);
      for (uint32_t token = 0; token < tokens; ++token) {
        for (uint32_t row = 0; row < rows; ++row) {
          ASSERT_EQ(y[token * rows + row], DocumentedSum(matrix, integers, x, row, token))
              << "row " << row << ", token " << token;
        }
      }
    }
  }
}

// The stored values, which the codec decodes with another order of roundings: the sum of both
// stages, the scale and the product round once each.
TEST_P(E8pProductTest, UnitVectorsGiveTheCodecsValues) {
  constexpr uint32_t kRows = 18, kCols = 70;
  const RandomTiles tiles = Tiles(kRows, kCols, 1);
  const auto matrix = tiles.Open();
  std::vector<float> x(kCols * kCols);
  for (uint32_t c = 0; c < kCols; ++c) x[c * kCols + c] = 127;  // of scale 1
  const std::vector<float> y =
      Product(Image(*matrix), PreparedActivations(ActivationForm::kInt8, x, kCols, kCols));
  std::vector<float> values(kRows * kCols);
  matrix->DecodeTile(0, kRows, 0, kCols, values.data(), kCols);
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  for (uint32_t row = 0; row < kRows; ++row) {
    for (uint32_t c = 0; c < kCols; ++c) {
      EXPECT_NEAR(y[c * kRows + row] / 127, values[row * kCols + c], 4 * 0x1p-24f * largest);
    }
  }
}

TEST_P(E8pProductTest, ATokensProductIsTheSameAloneAndAmongOthers) {
  constexpr uint32_t kRows = 20, kCols = 700, kTokens = 70;
  const RandomTiles tiles = Tiles(kRows, kCols, 3);
  const MatrixImage image = Image(*tiles.Open());
  ExpectTokensAgreeAlone(image, kTokens);
}

TEST_P(E8pProductTest, ManyTokensGiveTheBitsThatFewGive) {
  const RandomTiles tiles = Tiles(40, GetParam() == 2 ? 4300 : 2200, 3);
  ExpectManyTokensAgreeWithFew(Image(*tiles.Open()));
}

}  // namespace
}  // namespace quantloom::cuda
