// Products with ICQuant matrices, against the documented sum in scalar code.
#include "kernels/cuda/icquant_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/icquant_tiles.h"
#include "tests/cuda/emulation/primitives.h"
#include "tests/kernels/icquant_matrices.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

using cpu::IcquantShape;
using cpu::RandomFloats;
using cpu::RandomIcquant;

// Quantized activations, and what they mean.
struct Activations {
  Activations(const std::vector<float>& x, uint32_t token_count, uint32_t cols)
      : tokens(token_count),
        padded(DivideUp(tokens, kTokenTile) * kTokenTile),
        panels(DivideUp(cols, kPanelColumns)),
        // As wide as memory would be given out, and full of what must not matter.
        codes(size_t{padded} * panels * kPanelColumns, 99),
        scales(size_t{padded} * panels, std::numeric_limits<float>::quiet_NaN()),
        totals(padded, std::numeric_limits<float>::quiet_NaN()) {
    const char* const error = QuantizeActivations(
        x.data(), tokens, cols, cols, {codes.data(), scales.data(), totals.data()}, Stream());
    EXPECT_EQ(error, nullptr) << error;
  }

  Int8ActivationsView View() const {
    return {codes.data(), scales.data(), totals.data(), tokens, panels};
  }
  int Code(uint32_t token, uint32_t column) const {
    const uint32_t step = column % kPanelColumns / kStepColumns;
    const uint32_t in_step = column % kStepColumns;
    const uint32_t half = in_step / 16;
    const uint32_t t = in_step % 16 / 4;
    return codes[(size_t{token} * panels + column / kPanelColumns) * kPanelColumns + t * 32 +
                 step * 8 + half * 4 + in_step % 4];
  }
  float Scale(uint32_t token, uint32_t panel) const {
    return scales[size_t{panel} * padded + token];
  }

  uint32_t tokens;
  uint32_t padded;
  uint32_t panels;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<float> totals;
};

// The stored q of every weight, read through the format's accessors.
std::vector<int> Centroids(const IcquantMatrix& matrix) {
  std::vector<int> centroids;
  for (uint64_t row = 0; row < matrix.rows(); ++row) {
    for (uint64_t col = 0; col < matrix.cols(); ++col) {
      const uint32_t code = RowCode(matrix.row_codes(row), matrix.code_bits(), matrix.cols(), col);
      uint64_t word = 0;
      matrix.OutlierBitmap(row, col / 64, 1, &word);
      const uint32_t part = static_cast<uint32_t>(word >> (col % 64)) & 1u;
      centroids.push_back(matrix.centroids(row)[part << matrix.code_bits() | code]);
    }
  }
  return centroids;
}

// Panels sum exactly; eight partial sums take the slabs of four panels in turn, and are added.
float DocumentedSum(const IcquantMatrix& matrix, const std::vector<int>& centroids,
                    const Activations& x, uint32_t row, uint32_t token) {
  float partial[8] = {};
  for (uint32_t panel = 0; panel < x.panels; ++panel) {
    int sum = 0;
    const auto end = std::min<uint64_t>((panel + 1) * kPanelColumns, matrix.cols());
    for (uint64_t c = panel * kPanelColumns; c < end; ++c) {
      sum += centroids[row * matrix.cols() + c] * x.Code(token, static_cast<uint32_t>(c));
    }
    float& mine = partial[panel / 4 % 8];
    mine = std::fma(static_cast<float>(sum), x.Scale(token, panel), mine);
  }
  float total = 0;
  for (const float sum : partial) total += sum;
  return std::fma(matrix.offset(row), x.totals[token], matrix.scale(row) * total);
}

std::vector<float> Product(const IcquantTiles& tiles, const Activations& x) {
  std::vector<float> y(size_t{x.tokens} * tiles.rows, std::numeric_limits<float>::quiet_NaN());
  const char* const error = MultiplyIcquant(tiles.View(), tiles.bits, tiles.outliers, x.View(),
                                            y.data(), tiles.rows, Stream());
  EXPECT_EQ(error, nullptr) << error;
  return y;
}

struct FormCase {
  int bits;
  IcquantCodebook codebook;
  bool outliers;
  bool offset;
};
void PrintTo(const FormCase& c, std::ostream* out) {
  *out << cpu::Describe({c.bits, c.codebook, c.outliers, c.offset, 0, 0});
}

class IcquantProductTest : public testing::TestWithParam<FormCase> {
 protected:
  RandomIcquant Matrix(uint64_t rows, uint64_t cols, uint32_t seed) const {
    const FormCase c = GetParam();
    return RandomIcquant({c.bits, c.codebook, c.outliers, c.offset, rows, cols}, seed);
  }
};

TEST_P(IcquantProductTest, IsTheDocumentedSumForEveryShape) {
  // Rows, columns and tokens that do not fill their tiles, panels, segments or slabs.
  const uint32_t shapes[][3] = {{1, 1, 1},     {16, 128, 1},  {17, 129, 9},
                                {5, 255, 8},   {16, 256, 16}, {33, 576, 3},
                                {15, 640, 17}, {16, 1536, 2}, {3, 4200, 1}};
  for (const auto& [rows, cols, tokens] : shapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const RandomIcquant random = Matrix(rows, cols, rows + cols);
    const auto matrix = random.Open();
    const auto tiles = MakeIcquantTiles(*matrix);
    ASSERT_TRUE(tiles.ok()) << tiles.status();
    const Activations x(RandomFloats(size_t{tokens} * cols, 7), tokens, cols);
    const std::vector<int> centroids = Centroids(*matrix);
    for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
      const std::vector<float> y = Product(*tiles, x);
      for (uint32_t token = 0; token < tokens; ++token) {
        for (uint32_t row = 0; row < rows; ++row) {
          ASSERT_EQ(y[token * rows + row], DocumentedSum(*matrix, centroids, x, row, token))
              << "row " << row << ", token " << token;
        }
      }
    }
  }
}

TEST_P(IcquantProductTest, ATokensProductIsTheSameAloneAndAmongOthers) {
  constexpr uint32_t kRows = 20;
  constexpr uint32_t kCols = 700;
  constexpr uint32_t kTokens = 19;
  const RandomIcquant random = Matrix(kRows, kCols, 3);
  const auto tiles = MakeIcquantTiles(*random.Open());
  ASSERT_TRUE(tiles.ok()) << tiles.status();
  const std::vector<float> x = RandomFloats(size_t{kTokens} * kCols, 5);
  const std::vector<float> together = Product(*tiles, Activations(x, kTokens, kCols));
  for (uint32_t token = 0; token < kTokens; ++token) {
    const std::vector<float> own(x.begin() + token * kCols, x.begin() + (token + 1) * kCols);
    const std::vector<float> alone = Product(*tiles, Activations(own, 1, kCols));
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + token * kRows)) << token;
  }
}

std::vector<FormCase> Forms() {
  std::vector<FormCase> forms;
  for (int bits = 1; bits <= 4; ++bits) {
    for (const bool outliers : {false, true}) {
      forms.push_back({bits, IcquantCodebook::kTensor, outliers, false});
      forms.push_back({bits, IcquantCodebook::kInt8, outliers, false});
      forms.push_back({bits, IcquantCodebook::kInt8, outliers, true});
    }
  }
  return forms;
}
INSTANTIATE_TEST_SUITE_P(Forms, IcquantProductTest, testing::ValuesIn(Forms()));

TEST(IcquantTilesTest, RefuseFormsThatAreNotIntegers) {
  for (const IcquantShape& shape :
       {IcquantShape{2, IcquantCodebook::kFp16, true, false, 16, 256},
        IcquantShape{2, IcquantCodebook::kRange, true, false, 16, 256},
        IcquantShape{8, IcquantCodebook::kInt8, false, false, 16, 256}}) {
    const RandomIcquant random(shape, 1);
    EXPECT_EQ(MakeIcquantTiles(*random.Open()).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(IcquantTilesTest, TakeNoMoreThanCodesIndexAndPadding) {
  const RandomIcquant random({2, IcquantCodebook::kInt8, true, false, 64, 1024}, 1);
  const auto tiles = MakeIcquantTiles(*random.Open());
  ASSERT_TRUE(tiles.ok()) << tiles.status();
  EXPECT_EQ(tiles->codes.size() * 32, 64 * 1024 * 2);
  EXPECT_EQ(tiles->counts.size(), 64 * 4);
}

TEST(QuantizeActivationsTest, CodesAreTheNearestMultiplesOfTheirPanelsScale) {
  constexpr uint32_t kCols = 300;
  constexpr uint32_t kTokens = 3;
  std::vector<float> x = RandomFloats(kTokens * kCols, 9);
  std::fill(x.begin() + kCols, x.begin() + kCols + 128, 0.0f);  // a panel of zeros
  const Activations quantized(x, kTokens, kCols);
  for (uint32_t token = 0; token < kTokens; ++token) {
    double total = 0;
    for (uint32_t column = 0; column < kCols; ++column) {
      const float scale = quantized.Scale(token, column / kPanelColumns);
      const int code = quantized.Code(token, column);
      EXPECT_LE(std::abs(code), 127);
      EXPECT_NEAR(static_cast<float>(code) * scale, x[token * kCols + column], scale * 0.50001)
          << token << ", " << column;
      total += static_cast<double>(code) * scale;
    }
    EXPECT_NEAR(quantized.totals[token], total, 1e-4);
  }
  EXPECT_EQ(quantized.Scale(1, 0), 0);
}

TEST(QuantizeActivationsTest, APanelThatIsNotFinitePoisonsItsTokenAlone) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    constexpr uint32_t kCols = 260;
    std::vector<float> x = RandomFloats(2 * kCols, 9);
    x[130] = bad;
    const Activations quantized(x, 2, kCols);
    const RandomIcquant random({2, IcquantCodebook::kInt8, true, false, 4, kCols}, 1);
    const auto tiles = MakeIcquantTiles(*random.Open());
    ASSERT_TRUE(tiles.ok()) << tiles.status();
    const std::vector<float> y = Product(*tiles, quantized);
    for (uint32_t row = 0; row < 4; ++row) {
      EXPECT_TRUE(std::isnan(y[row]));
      EXPECT_TRUE(std::isfinite(y[4 + row]));
    }
  }
}

}  // namespace
}  // namespace quantloom::cuda
