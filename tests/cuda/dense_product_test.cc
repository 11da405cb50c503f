// fp16 and int8 matrices: what their images hold, products with them, and rows looked up.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "gtest/gtest.h"
#include "kernels/cuda/embed.h"
#include "tests/cuda/prepared_activations.h"
#include "tests/kernels/icquant_matrices.h"
#include "tests/kernels/lossless_matrix.h"
#include "tests/kernels/random_floats.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;
using cpu::RandomIcquant;

// Rows, columns and tokens that do not fill their tiles, panels or passes.
constexpr uint32_t kShapes[][3] = {{1, 1, 1},     {16, 128, 1}, {17, 129, 9},  {5, 255, 8},
                                   {33, 576, 16}, {16, 640, 3}, {3, 1700, 17}, {18, 130, 75}};

std::vector<uint8_t> Bytes(const std::vector<float>& values, DType dtype) {
  std::vector<uint8_t> bytes(values.size() * DTypeSize(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&bytes[4 * i], &values[i], 4);
    } else {
      const uint16_t bits =
          dtype == DType::kF16 ? FloatToHalf(values[i]) : FloatToBFloat16(values[i]);
      std::memcpy(&bytes[2 * i], &bits, 2);
    }
  }
  return bytes;
}

MatrixImage Dense(const std::vector<float>& values, uint64_t rows, uint64_t cols, DType dtype) {
  ThreadTeam team(2);
  absl::StatusOr<MatrixImage> image =
      DenseMatrixImage(rows, cols, dtype, Bytes(values, dtype), team);
  EXPECT_TRUE(image.ok()) << image.status();
  return *std::move(image);
}

MatrixImage Packed(const PackedMatrix& matrix, MatrixUse use) {
  ThreadTeam team(2);
  absl::StatusOr<MatrixImage> image = PackedMatrixImage(matrix, use, team);
  EXPECT_TRUE(image.ok()) << image.status();
  return *std::move(image);
}

// All rows of the image, in descending order of their numbers so that order shows.
std::vector<float> LookUpAll(const MatrixImage& image) {
  const auto rows = static_cast<uint32_t>(image.rows), cols = static_cast<uint32_t>(image.cols);
  const uint32_t stride = cols + 3;
  std::vector<int32_t> tokens;
  for (uint32_t i = 0; i < rows; ++i) tokens.push_back(static_cast<int32_t>(rows - 1 - i));
  std::vector<float> out(size_t{rows} * stride, -1);
  const char* const error =
      EmbedRows(image.view, tokens.data(), nullptr, rows, cols, out.data(), stride, Stream());
  EXPECT_EQ(error, nullptr) << error;
  std::vector<float> values(size_t{rows} * cols);
  for (uint32_t i = 0; i < rows; ++i) {
    std::copy_n(&out[size_t{i} * stride], cols, &values[size_t{rows - 1 - i} * cols]);
    for (uint32_t c = cols; c < stride; ++c) EXPECT_EQ(out[size_t{i} * stride + c], -1);
  }
  return values;
}

std::vector<float> Decoded(const PackedMatrix& matrix) {
  std::vector<float> values(matrix.rows() * matrix.cols());
  matrix.DecodeTile(0, matrix.rows(), 0, matrix.cols(), values.data(), matrix.cols());
  return values;
}

// Small integers: every product and sum is exact, in any order.
std::vector<float> RandomIntegers(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 31) - 15);
  return values;
}

TEST(HalfMatrixTest, ProductsOfSmallIntegersAreExactForEveryShape) {
  for (const auto& [rows, cols, tokens] : kShapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const std::vector<float> w = RandomIntegers(size_t{rows} * cols, 1);
    const std::vector<float> x = RandomIntegers(size_t{tokens} * cols, 2);
    const MatrixImage image = Dense(w, rows, cols, DType::kF32);
    const PreparedActivations prepared(ActivationForm::kHalf, x, tokens, cols);
    for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
      const std::vector<float> y = Product(image, prepared);
      for (uint32_t token = 0; token < tokens; ++token) {
        for (uint32_t row = 0; row < rows; ++row) {
          float expected = 0;
          for (uint32_t c = 0; c < cols; ++c) expected += w[row * cols + c] * x[token * cols + c];
          ASSERT_EQ(y[token * rows + row], expected) << "row " << row << ", token " << token;
        }
      }
    }
  }
}

// Products of two fp16 are exact in fp32. Of n additions in fp32, in any order, each is off by at
// most 2^-23 of the sum of magnitudes (2^-24 if rounded to nearest, 2^-23 if truncated as tensor
// cores may); here there are as many as columns, panels and warps. Scaling by the row's scale is
// exact, by the panel's part of a fused multiply-add.
TEST(HalfMatrixTest, ProductsAreWithinTheBoundOfFp32Accumulation) {
  constexpr uint32_t kRows = 20, kCols = 700, kTokens = 9;
  const MatrixImage image = Dense(RandomFloats(kRows * kCols, 3, 0.05f), kRows, kCols, DType::kF32);
  const std::vector<float> w = LookUpAll(image);
  const PreparedActivations x(ActivationForm::kHalf, RandomFloats(kTokens * kCols, 4), kTokens,
                              kCols);
  const std::vector<float> y = Product(image, x);
  for (uint32_t token = 0; token < kTokens; ++token) {
    for (uint32_t row = 0; row < kRows; ++row) {
      double sum = 0, magnitudes = 0;
      for (uint32_t c = 0; c < kCols; ++c) {
        const double term =
            static_cast<double>(w[row * kCols + c]) * x.Element(token, c) * x.Scale(token, c / 128);
        sum += term;
        magnitudes += std::fabs(term);
      }
      const double additions = kCols + x.view().panels + 8;
      EXPECT_NEAR(y[token * kRows + row], sum, additions * 0x1p-23 * magnitudes);
    }
  }
}

TEST(HalfMatrixTest, ATokensProductIsTheSameAloneAndAmongOthers) {
  constexpr uint32_t kRows = 20, kCols = 700, kTokens = 70;
  const MatrixImage image = Dense(RandomFloats(kRows * kCols, 3, 0.05f), kRows, kCols, DType::kF32);
  ExpectTokensAgreeAlone(image, kTokens);
}

TEST(HalfMatrixTest, HoldsF16AndBf16AsTheyAre) {
  constexpr uint32_t kRows = 37, kCols = 300;
  std::vector<float> values = RandomFloats(kRows * kCols, 6, 0.05f);
  for (uint32_t c = 0; c < kCols; ++c) values[c] = 65504;
  for (uint32_t c = 0; c < kCols; ++c) values[kCols + c] = c % 2 == 0 ? 65504.0f : 0x1p-24f;
  for (uint32_t c = 0; c < kCols; ++c) values[2 * kCols + c] = 0;
  std::vector<float> halves = values;
  for (float& value : halves) value = HalfToFloat(FloatToHalf(value));
  EXPECT_EQ(LookUpAll(Dense(values, kRows, kCols, DType::kF16)), halves);

  for (uint32_t c = 0; c < kCols; ++c) values[kCols + c] = c % 2 == 0 ? 1.0f : 0x1p-32f;
  for (uint32_t c = 0; c < kCols; ++c) values[3 * kCols + c] *= 1e30f;
  for (uint32_t c = 0; c < kCols; ++c) values[4 * kCols + c] *= 1e-30f;
  for (uint32_t c = 0; c < kCols; ++c) {
    values[5 * kCols + c] = std::ldexp(1.9921875f, -static_cast<int>(c % 32));
  }
  std::vector<float> bfloats = values;
  for (float& value : bfloats) value = BFloat16ToFloat(FloatToBFloat16(value));
  EXPECT_EQ(LookUpAll(Dense(values, kRows, kCols, DType::kBF16)), bfloats);
}

TEST(HalfMatrixTest, RoundsF32ToElevenBits) {
  constexpr uint32_t kRows = 5, kCols = 300;
  std::vector<float> values = RandomFloats(kRows * kCols, 6, 0.05f);
  values[0] = std::nextafter(1.0f, 0.0f);  // rounds up to the next power of two
  const std::vector<float> held = LookUpAll(Dense(values, kRows, kCols, DType::kF32));
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_NEAR(held[i], values[i], std::fabs(values[i]) * 0x1p-11) << i;
  }
}

TEST(HalfMatrixTest, HoldsWhatAnyCodecDecodesTo) {
  const auto matrix = RandomLossless(35, 300, 1, {.kind = IncoherenceKind::kNone});
  const MatrixImage image = Packed(*matrix, MatrixUse::kProduct);
  EXPECT_TRUE(std::holds_alternative<HalfMatrixView>(image.view));
  const std::vector<float> values = Decoded(*matrix), held = LookUpAll(image);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_NEAR(held[i], values[i], std::fabs(values[i]) * 0x1p-11) << i;
  }
}

TEST(HalfMatrixTest, IsTakenForLookUpsIntoCodes) {
  const RandomIcquant random({4, IcquantCodebook::kInt8, true, true, 20, 300}, 1);
  const auto matrix = random.Open();
  const std::vector<float> values = Decoded(*matrix);
  const std::vector<float> held = LookUpAll(Packed(*matrix, MatrixUse::kRows));
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_NEAR(held[i], values[i], std::fabs(values[i]) * 0x1p-11) << i;
  }
}

class ByteMatrixTest : public testing::TestWithParam<bool> {
 protected:
  static RandomIcquant Matrix(uint64_t rows, uint64_t cols, uint32_t seed) {
    return RandomIcquant({8, IcquantCodebook::kInt8, false, GetParam(), rows, cols}, seed);
  }
};
INSTANTIATE_TEST_SUITE_P(Offset, ByteMatrixTest, testing::Bool());

// Panels sum exactly; eight partial sums take panels in turn, and are added.
float DocumentedSum(const IcquantMatrix& matrix, const PreparedActivations& x, uint32_t row,
                    uint32_t token) {
  float partial[8] = {};
  for (uint32_t panel = 0; panel < x.view().panels; ++panel) {
    int sum = 0;
    const auto end = std::min<uint64_t>((panel + 1) * 128, matrix.cols());
    for (uint32_t c = panel * 128; c < end; ++c) {
      const auto q = static_cast<int8_t>(RowCode(matrix.row_codes(row), 8, matrix.cols(), c));
      sum += q * static_cast<int>(x.Element(token, c));
    }
    float& mine = partial[panel % 8];
    mine = std::fma(static_cast<float>(sum), x.Scale(token, panel), mine);
  }
  float total = 0;
  for (const float sum : partial) total += sum;
  return std::fma(matrix.offset(row), x.Total(token), matrix.scale(row) * total);
}

TEST_P(ByteMatrixTest, ProductIsTheDocumentedSumForEveryShape) {
  for (const auto& [rows, cols, tokens] : kShapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const RandomIcquant random = Matrix(rows, cols, rows + cols);
    const auto matrix = random.Open();
    const MatrixImage image = Packed(*matrix, MatrixUse::kProduct);
    ASSERT_TRUE(std::holds_alternative<ByteMatrixView>(image.view));
    const PreparedActivations x(ActivationForm::kInt8, RandomFloats(size_t{tokens} * cols, 7),
                                tokens, cols);
    for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
      const std::vector<float> y = Product(image, x);
      for (uint32_t token = 0; token < tokens; ++token) {
        for (uint32_t row = 0; row < rows; ++row) {
          ASSERT_EQ(y[token * rows + row], DocumentedSum(*matrix, x, row, token))
              << "row " << row << ", token " << token;
        }
      }
    }
  }
}

TEST_P(ByteMatrixTest, RowsLookedUpAreWhatTheCodecDecodesTo) {
  for (const auto& [rows, cols, tokens] : kShapes) {
    const RandomIcquant random = Matrix(rows, cols, rows);
    const auto matrix = random.Open();
    EXPECT_EQ(LookUpAll(Packed(*matrix, MatrixUse::kRows)), Decoded(*matrix));
  }
}

TEST(ProductTest, ManyTokensGiveTheBitsThatFewGive) {
  ExpectManyTokensAgreeWithFew(Dense(RandomFloats(40 * 1300, 3, 0.05f), 40, 1300, DType::kF32));
  const RandomIcquant random({8, IcquantCodebook::kInt8, false, true, 40, 1300}, 1);
  ExpectManyTokensAgreeWithFew(Packed(*random.Open(), MatrixUse::kProduct));
}

TEST(DenseMatrixImageTest, RefusesWhatIsNotAMatrixOfFiniteNumbers) {
  ThreadTeam team(1);
  const std::vector<uint8_t> bytes(32);
  const auto code = [&](uint64_t rows, uint64_t cols, DType dtype) {
    return DenseMatrixImage(rows, cols, dtype, bytes, team).status().code();
  };
  EXPECT_EQ(code(2, 4, DType::kF32), absl::StatusCode::kOk);
  EXPECT_EQ(code(2, 4, DType::kI32), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(2, 5, DType::kF32), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 4, DType::kF32), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(uint64_t{1} << 62, 8, DType::kF32), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(uint64_t{1} << 31, 1, DType::kF32), absl::StatusCode::kInvalidArgument);

  std::vector<float> values(20 * 3, 1.0f);
  values[18 * 3 + 1] = std::numeric_limits<float>::quiet_NaN();
  const absl::Status status =
      DenseMatrixImage(20, 3, DType::kF32, Bytes(values, DType::kF32), team).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("row 18"), std::string::npos) << status;
}

TEST(ProductTest, RefusesActivationsOfAnotherFormOrWidth) {
  const MatrixImage image = Dense(std::vector<float>(16 * 128, 1.0f), 16, 128, DType::kF32);
  std::vector<float> y(16);
  const PreparedActivations int8(ActivationForm::kInt8, std::vector<float>(128), 1, 128);
  EXPECT_STREQ(Multiply(image.view, int8.view(), y.data(), 16, Stream()),
               "Multiply: activations are not of the matrix's form");
  const PreparedActivations wide(ActivationForm::kHalf, std::vector<float>(129), 1, 129);
  EXPECT_STREQ(Multiply(image.view, wide.view(), y.data(), 16, Stream()),
               "Multiply: activations and matrix differ in columns");
}

}  // namespace
}  // namespace quantloom::cuda
