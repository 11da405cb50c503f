// What a library for dense products reads: matrices of every form in fp16, activations with a scale
// for each token.
#include "kernels/cuda/dense_operands.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "gtest/gtest.h"
#include "kernels/cuda/matrix_image.h"
#include "tests/cuda/launch_seed.h"
#include "tests/kernels/icquant_matrices.h"
#include "tests/kernels/random_floats.h"
#include "tests/random_tiles.h"

namespace quantloom::cuda {
namespace {

using cpu::IcquantShape;
using cpu::RandomFloats;
using cpu::RandomIcquant;

// ExpandRows of all rows but the first `skip`, against the values the format's own code decodes.
void ExpectExpanded(const MatrixImage& image, const std::vector<float>& values, uint32_t skip) {
  const auto rows = static_cast<uint32_t>(image.rows) - skip;
  const auto cols = static_cast<uint32_t>(image.cols);
  const uint32_t padded = DivideUp(cols, kPanelColumns) * kPanelColumns;
  constexpr uint16_t kUntouched = 0x7BCD;
  std::vector<uint16_t> out(size_t{rows} * padded + 1, kUntouched);
  const std::vector<uint8_t> memory = image.bytes;
  for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
    const char* const error =
        ExpandRows(image.ViewAt(memory.data()), skip, rows, out.data(), Stream());
    ASSERT_EQ(error, nullptr) << error;
    for (uint32_t row = 0; row < rows; ++row) {
      const float* const expected = &values[size_t{row + skip} * cols];
      float largest = 0;
      for (uint32_t c = 0; c < cols; ++c) largest = std::max(largest, std::abs(expected[c]));
      for (uint32_t c = 0; c < cols; ++c) {
        // Rounded to fp16; before, at most four roundings of terms not above the row's largest.
        const double bound =
            std::abs(expected[c]) * 0x1p-11 + 0x1p-25 + 4 * 0x1p-24 * 2 * double{largest};
        ASSERT_NEAR(HalfToFloat(out[size_t{row} * padded + c]), expected[c], bound)
            << "row " << row + skip << ", column " << c;
      }
    }
    EXPECT_EQ(out.back(), kUntouched);
  }
}

void ExpectExpanded(const PackedMatrix& matrix) {
  ThreadTeam team(2);
  const auto image = PackedMatrixImage(matrix, MatrixUse::kProduct, team);
  ASSERT_TRUE(image.ok()) << image.status();
  std::vector<float> values(matrix.rows() * matrix.cols());
  matrix.DecodeTile(0, matrix.rows(), 0, matrix.cols(), values.data(), matrix.cols());
  ExpectExpanded(*image, values, 0);
  if (matrix.rows() > kExpandRows) ExpectExpanded(*image, values, kExpandRows);
}

// Rows and columns that do not fill tiles, panels or slabs.
constexpr uint32_t kShapes[][2] = {{1, 1}, {16, 128}, {37, 300}, {3, 2300}};

TEST(ExpandRowsTest, GivesDenseMatricesInFp16) {
  for (const auto& [rows, cols] : kShapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols));
    const std::vector<float> values = RandomFloats(size_t{rows} * cols, rows);
    std::vector<uint8_t> bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    ThreadTeam team(2);
    const auto image = DenseMatrixImage(rows, cols, DType::kF32, bytes, team);
    ASSERT_TRUE(image.ok()) << image.status();
    ExpectExpanded(*image, values, 0);
  }
}

TEST(ExpandRowsTest, GivesIcquantsLevelsOfEveryRateAndForm) {
  for (const auto& [rows, cols] : kShapes) {
    for (const auto codebook :
         {IcquantCodebook::kInt8, IcquantCodebook::kFp16, IcquantCodebook::kTensor}) {
      for (const int bits : {1, 2, 3, 4}) {
        for (const bool outliers : {true, false}) {
          const IcquantShape shape = {bits, codebook, outliers, codebook == IcquantCodebook::kInt8,
                                      rows, cols};
          SCOPED_TRACE(Describe(shape));
          ExpectExpanded(*RandomIcquant(shape, rows + cols).Open());
        }
      }
    }
  }
}

TEST(ExpandRowsTest, GivesInt8Matrices) {
  const IcquantShape shape = {8, IcquantCodebook::kInt8, false, true, 37, 300};
  ExpectExpanded(*RandomIcquant(shape, 1).Open());
}

TEST(ExpandRowsTest, GivesTrellisesOfEveryCodeAndRate) {
  for (const auto& [rows, cols] : kShapes) {
    for (const char* const code : {"mul1", "1mad", "3inst", "hyb"}) {
      for (uint64_t half_bits = 2; half_bits <= 8; ++half_bits) {
        const std::string recipe =
            absl::StrCat("qtip:bits=", static_cast<double>(half_bits) / 2, ",code=", code,
                         ",incoherence=none,rounding=nearest,scales=row");
        SCOPED_TRACE(absl::StrCat(recipe, " ", rows, " x ", cols));
        ExpectExpanded(*RandomTiles(recipe, rows, cols, 16, 16, half_bits * 16, 7).Open());
      }
    }
  }
}

TEST(ExpandRowsTest, GivesE8pVectorsOfEveryRate) {
  for (const auto& [rows, cols] : kShapes) {
    for (const uint64_t bits : {2, 3, 4}) {
      const std::string recipe =
          absl::StrCat("quip:bits=", bits, ",incoherence=none,rounding=nearest,scales=row");
      SCOPED_TRACE(absl::StrCat(recipe, " ", rows, " x ", cols));
      ExpectExpanded(*RandomTiles(recipe, rows, cols, 1, 8, bits, 7).Open());
    }
  }
}

TEST(ExpandRowsTest, RefusesRowsInTheMiddleOfABlock) {
  uint16_t out = 0;
  EXPECT_NE(ExpandRows(HalfMatrixView(), 16, 1, &out, Stream()), nullptr);
}

TEST(HalveRowsTest, IsEachTokenByItsPowerOfTwoWithPaddingZero) {
  constexpr uint32_t kTokens = 5;
  constexpr uint32_t kCols = 700;
  constexpr uint32_t kStride = 710;
  constexpr uint32_t kPadded = 768;
  std::vector<float> x = RandomFloats(kTokens * kStride, 3);
  for (uint32_t c = 0; c < kCols; ++c) {
    x[1 * kStride + c] *= 1e30f;
    x[2 * kStride + c] = 0;
  }
  x[3 * kStride + 699] = std::numeric_limits<float>::infinity();
  x[4 * kStride + 5] = std::numeric_limits<float>::quiet_NaN();
  std::vector<uint16_t> out(kTokens * kPadded, 0xFFFF);
  std::vector<float> scales(kTokens);
  ASSERT_EQ(HalveRows(x.data(), kTokens, kCols, kStride, out.data(), scales.data(), Stream()),
            nullptr);
  for (const uint32_t token : {0u, 1u}) {
    float largest = 0;
    for (uint32_t c = 0; c < kCols; ++c) {
      largest = std::max(largest, std::abs(x[token * kStride + c]));
    }
    int exponent = 0;
    EXPECT_EQ(std::frexp(scales[token], &exponent), 0.5f) << token;  // a power of two
    EXPECT_GE(largest / scales[token], 0x1p14f);
    EXPECT_LT(largest / scales[token], 0x1p15f);
    for (uint32_t c = 0; c < kPadded; ++c) {
      const float expected = c < kCols ? x[token * kStride + c] / scales[token] : 0;
      ASSERT_NEAR(HalfToFloat(out[token * kPadded + c]), expected,
                  std::abs(expected) * 0x1p-11 + 0x1p-25)
          << token << ", " << c;
    }
  }
  EXPECT_TRUE(std::isfinite(scales[2]));
  for (uint32_t c = 0; c < kPadded; ++c) EXPECT_EQ(out[2 * kPadded + c], 0);
  EXPECT_TRUE(std::isnan(scales[3]));
  EXPECT_TRUE(std::isnan(scales[4]));
}

TEST(ScaleRowsTest, MultipliesEachTokenAndTouchesNothingElse) {
  constexpr uint32_t kTokens = 3;
  constexpr uint32_t kRows = 300;
  constexpr uint32_t kStride = 310;
  const std::vector<float> y = RandomFloats(kTokens * kStride, 1);
  const std::vector<float> scales = {0.5f, -2, 8};
  std::vector<float> scaled = y;
  ASSERT_EQ(ScaleRows(scaled.data(), kTokens, kRows, kStride, scales.data(), Stream()), nullptr);
  for (uint32_t i = 0; i < kTokens * kStride; ++i) {
    ASSERT_EQ(scaled[i], y[i] * (i % kStride < kRows ? scales[i / kStride] : 1)) << i;
  }
}

}  // namespace
}  // namespace quantloom::cuda
