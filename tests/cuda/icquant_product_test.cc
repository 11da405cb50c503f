// Products with ICQuant matrices, against the documented sum in scalar code.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/cuda/icquant_image.h"
#include "tests/cuda/prepared_activations.h"
#include "tests/kernels/icquant_matrices.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;
using cpu::RandomIcquant;

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
                    const PreparedActivations& x, uint32_t row, uint32_t token) {
  float partial[8] = {};
  for (uint32_t panel = 0; panel < x.view().panels; ++panel) {
    int sum = 0;
    const auto end = std::min<uint64_t>((panel + 1) * kPanelColumns, matrix.cols());
    for (uint64_t c = panel * kPanelColumns; c < end; ++c) {
      sum += centroids[row * matrix.cols() + c] *
             static_cast<int>(x.Element(token, static_cast<uint32_t>(c)));
    }
    float& mine = partial[panel / 4 % 8];
    mine = std::fma(static_cast<float>(sum), x.Scale(token, panel), mine);
  }
  float total = 0;
  for (const float sum : partial) total += sum;
  return std::fma(matrix.offset(row), x.Total(token), matrix.scale(row) * total);
}

MatrixImage Image(const RandomIcquant& random) {
  ThreadTeam team(1);
  absl::StatusOr<MatrixImage> image = PackedMatrixImage(*random.Open(), MatrixUse::kProduct, team);
  EXPECT_TRUE(image.ok()) << image.status();
  EXPECT_TRUE(std::holds_alternative<IcquantView>(image->view));
  return *std::move(image);
}

PreparedActivations Int8(const std::vector<float>& x, uint32_t tokens, uint32_t cols) {
  return PreparedActivations(ActivationForm::kInt8, x, tokens, cols);
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

class IcquantFormsTest : public testing::TestWithParam<FormCase> {
 protected:
  RandomIcquant Matrix(uint64_t rows, uint64_t cols, uint32_t seed) const {
    const FormCase c = GetParam();
    return RandomIcquant({c.bits, c.codebook, c.outliers, c.offset, rows, cols}, seed);
  }
};

TEST_P(IcquantFormsTest, IsTheDocumentedSumForEveryShape) {
  // Rows, columns and tokens that do not fill their tiles, panels, segments or slabs.
  const uint32_t shapes[][3] = {{1, 1, 1},     {16, 128, 1},  {17, 129, 9},
                                {5, 255, 8},   {16, 256, 16}, {33, 576, 3},
                                {15, 300, 75}, {16, 1536, 2}, {3, 4200, 1}};
  for (const auto& [rows, cols, tokens] : shapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const RandomIcquant random = Matrix(rows, cols, rows + cols);
    const auto matrix = random.Open();
    const MatrixImage image = Image(random);
    const PreparedActivations x = Int8(RandomFloats(size_t{tokens} * cols, 7), tokens, cols);
    const std::vector<int> centroids = Centroids(*matrix);
    for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
      const std::vector<float> y = Product(image, x);
      for (uint32_t token = 0; token < tokens; ++token) {
        for (uint32_t row = 0; row < rows; ++row) {
          ASSERT_EQ(y[token * rows + row], DocumentedSum(*matrix, centroids, x, row, token))
              << "row " << row << ", token " << token;
        }
      }
    }
  }
}

TEST_P(IcquantFormsTest, ATokensProductIsTheSameAloneAndAmongOthers) {
  constexpr uint32_t kRows = 20;
  constexpr uint32_t kCols = 700;
  constexpr uint32_t kTokens = 69;  // a pass of 64 and another
  const RandomIcquant random = Matrix(kRows, kCols, 3);
  const MatrixImage image = Image(random);
  ExpectTokensAgreeAlone(image, kTokens);
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
INSTANTIATE_TEST_SUITE_P(Forms, IcquantFormsTest, testing::ValuesIn(Forms()));

// More than eight slabs, so that each of the eight partial sums has two of them.
TEST(IcquantProductTest, ManyTokensGiveTheBitsThatFewGive) {
  const RandomIcquant random({2, IcquantCodebook::kInt8, true, false, 40, 4300}, 1);
  ExpectManyTokensAgreeWithFew(Image(random));
}

// --- Levels in fp16: forms fp16 and range.

class IcquantHalfLevelsTest : public IcquantFormsTest {
 protected:
  static std::vector<float> Values(const PackedMatrix& matrix) {
    std::vector<float> values(matrix.rows() * matrix.cols());
    matrix.DecodeTile(0, matrix.rows(), 0, matrix.cols(), values.data(), matrix.cols());
    return values;
  }
};

std::vector<FormCase> HalfForms() {
  std::vector<FormCase> forms;
  for (int bits = 1; bits <= 4; ++bits) {
    for (const bool outliers : {false, true}) {
      forms.push_back({bits, IcquantCodebook::kFp16, outliers, false});
      forms.push_back({bits, IcquantCodebook::kRange, outliers, false});
    }
  }
  return forms;
}
INSTANTIATE_TEST_SUITE_P(Forms, IcquantHalfLevelsTest, testing::ValuesIn(HalfForms()));

// Products with unit vectors are the weights: to the last bit in form fp16, to 11 bits of the
// computed levels in form range.
TEST_P(IcquantHalfLevelsTest, EveryWeightDecodesToItsLevel) {
  constexpr uint32_t kRows = 21, kCols = 300;
  const RandomIcquant random = Matrix(kRows, kCols, 4);
  std::vector<float> x(size_t{kCols} * kCols);
  for (uint32_t c = 0; c < kCols; ++c) x[size_t{c} * kCols + c] = 1;
  const std::vector<float> y =
      Product(Image(random), PreparedActivations(ActivationForm::kHalf, x, kCols, kCols));
  const std::vector<float> values = Values(*random.Open());
  for (uint32_t row = 0; row < kRows; ++row) {
    for (uint32_t c = 0; c < kCols; ++c) {
      const float value = values[row * kCols + c];
      if (GetParam().codebook == IcquantCodebook::kFp16) {
        ASSERT_EQ(y[c * kRows + row], value) << "row " << row << ", column " << c;
      } else {
        ASSERT_NEAR(y[c * kRows + row], value, std::fabs(value) * 0x1p-11)
            << "row " << row << ", column " << c;
      }
    }
  }
}

// The bound of dense_product_test.cc; form range's levels are off by 2^-11 besides.
TEST_P(IcquantHalfLevelsTest, ProductIsWithinItsBoundForEveryShape) {
  const uint32_t shapes[][3] = {{1, 1, 1},   {16, 128, 1},   {17, 129, 9},
                                {5, 255, 8}, {33, 1300, 16}, {15, 300, 75}};
  const double level_error = GetParam().codebook == IcquantCodebook::kFp16 ? 0 : 0x1p-11;
  for (const auto& [rows, cols, tokens] : shapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const RandomIcquant random = Matrix(rows, cols, rows + cols);
    const std::vector<float> w = Values(*random.Open());
    const PreparedActivations x(ActivationForm::kHalf, RandomFloats(size_t{tokens} * cols, 7),
                                tokens, cols);
    const std::vector<float> y = Product(Image(random), x);
    for (uint32_t token = 0; token < tokens; ++token) {
      for (uint32_t row = 0; row < rows; ++row) {
        double sum = 0, magnitudes = 0;
        for (uint32_t c = 0; c < cols; ++c) {
          const double term = static_cast<double>(w[row * cols + c]) * x.Element(token, c) *
                              x.Scale(token, c / kPanelColumns);
          sum += term;
          magnitudes += std::fabs(term);
        }
        const double additions = cols + x.view().panels + 8;
        ASSERT_NEAR(y[token * rows + row], sum, (additions * 0x1p-23 + level_error) * magnitudes)
            << "row " << row << ", token " << token;
      }
    }
  }
}

TEST(IcquantImageTest, TakesNoMoreThanCodesIndexAndLevels) {
  const RandomIcquant random({2, IcquantCodebook::kInt8, true, false, 64, 1024}, 1);
  const uint64_t weights = 64 * 1024;
  // 8 % outliers, symbols of 5 bits; a count a row and segment, a first symbol for 16 of them.
  const uint64_t index = weights / 100 * 8 * 5 / 8 + 64 * 4 + 64 * 4 / 4;
  const uint64_t escapes = index / 20;
  const uint64_t levels = 64 * (8 + 4 + 4);
  EXPECT_LE(Image(random).bytes.size(),
            weights * 2 / 8 + index + escapes + levels + 7 * kImageAlignment);
}

TEST(IcquantProductTest, APanelThatIsNotFinitePoisonsItsTokenAlone) {
  constexpr uint32_t kCols = 260;
  const RandomIcquant random({2, IcquantCodebook::kInt8, true, false, 4, kCols}, 1);
  const MatrixImage image = Image(random);
  std::vector<float> x = RandomFloats(2 * kCols, 9);
  x[130] = std::numeric_limits<float>::infinity();
  const std::vector<float> y = Product(image, Int8(x, 2, kCols));
  for (uint32_t row = 0; row < 4; ++row) {
    EXPECT_TRUE(std::isnan(y[row]));
    EXPECT_TRUE(std::isfinite(y[4 + row]));
  }
}

}  // namespace
}  // namespace quantloom::cuda
