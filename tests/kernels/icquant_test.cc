#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/every_target.h"
#include "tests/kernels/icquant_matrices.h"
#include "tests/kernels/integer_sum.h"

namespace quantloom::cpu {
namespace {

using Form = IcquantCodebook;

std::vector<float> Product(const LinearOperator& op, const std::vector<float>& x, size_t tokens) {
  Activations activations;
  activations.Assign(x.data(), tokens, op.cols(), op.cols(), op.activation_form());
  return Product(op, activations);
}

std::unique_ptr<LinearOperator> MakeOperator(const RandomIcquant& random,
                                             std::optional<ActivationForm> form = {}) {
  return LinearOperator::FromPacked(random.Open(), form);
}

// The stored q of one weight: value = scale * q + offset, read through the format's accessors.
int StoredCentroid(const IcquantMatrix& matrix, uint64_t row, uint64_t col) {
  const uint32_t code = RowCode(matrix.row_codes(row), matrix.code_bits(), matrix.cols(), col);
  if (matrix.code_bits() == 8) return static_cast<int8_t>(code);
  uint64_t word = 0;
  matrix.OutlierBitmap(row, col / 64, 1, &word);
  const uint32_t part = static_cast<uint32_t>(word >> (col % 64)) & 1u;
  return matrix.centroids(row)[part << matrix.code_bits() | code];
}

// The documented product of the integer form, in plain scalar code.
float IntegerProduct(const IcquantMatrix& matrix, const Activations& x, uint64_t row,
                     size_t token) {
  std::vector<int> centroids(matrix.cols());
  for (uint64_t c = 0; c < matrix.cols(); ++c) centroids[c] = StoredCentroid(matrix, row, c);
  const auto product = [&](size_t i) {
    const float scaled = matrix.scale(row) * IntegerSum(centroids.data(), x, i);
    return matrix.has_offset() ? std::fma(matrix.offset(row), x.total(i), scaled) : scaled;
  };
  const float first = product(token);
  return x.form() == ActivationForm::kInt16 ? first + product(x.tokens() + token) : first;
}

struct FormCase {
  Form form;
  int bits;
  bool outliers;
  bool offset;
};

void PrintTo(const FormCase& c, std::ostream* out) {
  *out << Describe({c.bits, c.form, c.outliers, c.offset, 0, 0});
}

class IntegerForms : public testing::TestWithParam<FormCase> {};

// Every column count up to a few blocks, and around what kernels take at once (512 columns), with
// every number of blocks behind it.
std::vector<uint64_t> ColumnCounts() {
  std::vector<uint64_t> counts;
  for (uint64_t cols = 1; cols <= 200; ++cols) counts.push_back(cols);
  for (uint64_t cols = 320; cols <= 1152; cols += 64) {
    counts.insert(counts.end(), {cols - 1, cols, cols + 17});
  }
  return counts;
}

TEST_P(IntegerForms, ProductIsTheDocumentedSumForEveryColumnCount) {
  const FormCase c = GetParam();
  for (const uint64_t cols : ColumnCounts()) {
    const uint64_t rows = 1 + cols % 6;
    const RandomIcquant random({c.bits, c.form, c.outliers, c.offset, rows, cols},
                               static_cast<uint32_t>(cols));
    const auto matrix = random.Open();
    const auto op =
        MakeOperator(random, cols % 2 == 0 ? ActivationForm::kInt8 : ActivationForm::kInt16);
    const size_t tokens = 1 + cols % 3;
    const std::vector<float> x = RandomFloats(tokens * cols, static_cast<uint32_t>(cols) + 7);
    Activations activations;
    activations.Assign(x.data(), tokens, cols, cols, op->activation_form());
    std::vector<float> expected(tokens * rows);
    for (size_t t = 0; t < tokens; ++t) {
      for (uint64_t r = 0; r < rows; ++r) {
        expected[t * rows + r] = IntegerProduct(*matrix, activations, r, t);
      }
    }
    OnEveryTarget([&](const std::string&) {
      ASSERT_TRUE(SameBits(Product(*op, x, tokens), expected)) << "cols " << cols;
    });
  }
}

TEST_P(IntegerForms, ManyTokensAndAnyRowSplitGiveTheBitsOfOneToken) {
  const FormCase c = GetParam();
  const RandomIcquant random({c.bits, c.form, c.outliers, c.offset, 23, 576}, 11);
  // Several token blocks, and a remainder of every tile.
  for (const auto form : {ActivationForm::kInt8, ActivationForm::kInt16}) {
    ExpectTokensAndRowSplitsAgree(*MakeOperator(random, form), 301);
  }
}

TEST_P(IntegerForms, BlocksOfColumnsGiveTheBitsOfOneToken) {
  const FormCase c = GetParam();
  // Blocks are of 2048 columns, the last one of up to 3072: one to three of them, with and without
  // steps behind the last chunk, groups that are not full and steps that are not.
  for (const uint64_t cols : {3072, 3073, 3648, 5120 + 64, 2 * 2048 + 1024 + 17}) {
    const RandomIcquant random({c.bits, c.form, c.outliers, c.offset, 7, cols},
                               static_cast<uint32_t>(cols));
    ExpectTokensAndRowSplitsAgree(*MakeOperator(random), 17);
  }
}

TEST_P(IntegerForms, EveryNumberOfTokensGivesTheBitsOfOneToken) {
  const FormCase c = GetParam();
  const RandomIcquant random({c.bits, c.form, c.outliers, c.offset, 9, 3648}, 3);
  const auto op = MakeOperator(random);
  for (size_t tokens = 2; tokens <= 17; ++tokens) ExpectTokensAndRowSplitsAgree(*op, tokens);
}

TEST_P(IntegerForms, ErrorComesFromQuantizedActivationsAlone) {
  const FormCase c = GetParam();
  const uint64_t rows = 8, cols = 1536;
  const RandomIcquant random({c.bits, c.form, c.outliers, c.offset, rows, cols}, 5);
  std::vector<float> weights(rows * cols);
  random.Open()->DecodeTile(0, rows, 0, cols, weights.data(), cols);
  for (const auto form : {ActivationForm::kInt8, ActivationForm::kInt16}) {
    ExpectErrorOfActivationsAlone(*MakeOperator(random, form), weights);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, IntegerForms,
    testing::Values(FormCase{Form::kInt8, 1, true, true}, FormCase{Form::kInt8, 1, false, false},
                    FormCase{Form::kInt8, 2, true, true}, FormCase{Form::kInt8, 2, false, true},
                    FormCase{Form::kInt8, 3, true, false}, FormCase{Form::kInt8, 3, false, true},
                    FormCase{Form::kInt8, 4, true, true}, FormCase{Form::kInt8, 4, false, false},
                    FormCase{Form::kInt8, 8, false, true}, FormCase{Form::kInt8, 8, false, false},
                    FormCase{Form::kTensor, 2, true, false},
                    FormCase{Form::kTensor, 4, true, false}));

TEST(IcquantProduct, ReadsTheFormThatItsBitsAllow) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    const RandomIcquant random({bits, Form::kInt8, bits < 8, false, 2, 64}, 1);
    const auto form = [&](std::optional<ActivationForm> wanted) {
      return MakeOperator(random, wanted)->activation_form();
    };
    if (bits <= 3) {
      for (const auto wanted :
           {ActivationForm::kInt8Wide, ActivationForm::kInt8, ActivationForm::kInt16}) {
        EXPECT_EQ(form(wanted), ActivationForm::kInt8Wide);
      }
      EXPECT_EQ(form({}), ActivationForm::kInt8Wide);
    } else {
      EXPECT_EQ(form(ActivationForm::kInt8Wide), ActivationForm::kInt8);
      EXPECT_EQ(form(ActivationForm::kInt8), ActivationForm::kInt8);
      EXPECT_EQ(form(ActivationForm::kInt16), ActivationForm::kInt16);
      EXPECT_EQ(form({}), bits == 4 ? ActivationForm::kInt8 : ActivationForm::kInt16);
    }
    EXPECT_EQ(BestActivationForm(*random.Open(), /*keys_values=*/true),
              bits <= 3 ? ActivationForm::kInt8Wide : ActivationForm::kInt16);
  }
}

// Matrices that share their inputs may read different forms of them.
TEST(IcquantProduct, OfInt8IgnoresWhatFinerFormsAdd) {
  const RandomIcquant random({4, Form::kInt8, true, true, 9, 576}, 3);
  const auto op = MakeOperator(random, ActivationForm::kInt8);
  const std::vector<float> x = RandomFloats(5 * 576, 4);
  EXPECT_TRUE(SameBits(Product(*op, QuantizedActivations(x, 576, ActivationForm::kInt16)),
                       Product(*op, QuantizedActivations(x, 576))));
}

TEST(IcquantProduct, ExtremeCentroidsAndActivationsDoNotSaturate) {
  // Every weight and activation at +-127: the largest sums that the integer form can form.
  const uint64_t rows = 4, cols = 512;
  std::vector<Plane> planes(2);
  planes[0] = {"codes", DType::kU8, {rows * cols}, std::vector<uint8_t>(rows * cols)};
  for (uint64_t i = 0; i < rows * cols; ++i) {
    planes[0].bytes[i] = static_cast<uint8_t>(i / cols % 2 == 0 ? 127 : -127);
  }
  planes[1] = {"scale", DType::kBF16, {32}, std::vector<uint8_t>(64)};
  for (uint64_t r = 0; r < rows; ++r)
    planes[1].bytes[2 * r + 1] = 0x3F, planes[1].bytes[2 * r] = 0x80;
  IcquantOptions options;
  options.bits = 8;
  options.outliers = 0;
  options.inner = IcquantInner::kRtn;
  options.codebook = Form::kInt8;
  options.offset = IcquantOffset::kNone;
  const std::vector<PlaneView> views = {planes[0].view(), planes[1].view()};
  OnEveryTarget([&](const std::string&) {
    auto matrix = IcquantMatrix::Open(options, rows, cols, views);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    const auto op = LinearOperator::FromPacked(std::move(matrix).value());
    for (float sign : {1.0f, -1.0f}) {
      const std::vector<float> y = Product(*op, std::vector<float>(cols, 127.0f * sign), 1);
      for (uint64_t r = 0; r < rows; ++r) {
        EXPECT_EQ(y[r], sign * (r % 2 == 0 ? 1.0f : -1.0f) * 127 * 127 * cols);
      }
    }
  });
}

class FloatForms : public testing::TestWithParam<FormCase> {};

TEST_P(FloatForms, ProductIsTheSixteenLaneSumOfTheDecodedRow) {
  const FormCase c = GetParam();
  for (uint64_t cols : {1, 7, 16, 63, 64, 65, 100, 128, 200, 576}) {
    for (uint64_t rows : {1, 7}) {
      const RandomIcquant random({c.bits, c.form, c.outliers, false, rows, cols},
                                 static_cast<uint32_t>(cols));
      std::vector<float> weights(rows * cols);
      random.Open()->DecodeTile(0, rows, 0, cols, weights.data(), cols);
      const auto op = MakeOperator(random);
      EXPECT_EQ(op->activation_form(), ActivationForm::kFloat);
      for (size_t tokens : {1, 5, 60}) {
        const std::vector<float> x = RandomFloats(tokens * cols, 3);
        std::vector<float> expected(tokens * rows);
        for (size_t t = 0; t < tokens; ++t) {
          for (uint64_t r = 0; r < rows; ++r) {
            expected[t * rows + r] = SixteenLaneDot(&weights[r * cols], &x[t * cols], cols);
          }
        }
        OnEveryTarget([&](const std::string&) {
          ASSERT_TRUE(SameBits(Product(*op, x, tokens), expected)) << rows << " x " << cols;
        });
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, FloatForms,
    testing::Values(FormCase{Form::kFp16, 1, true, false}, FormCase{Form::kFp16, 2, true, false},
                    FormCase{Form::kFp16, 3, true, false}, FormCase{Form::kFp16, 4, true, false},
                    FormCase{Form::kFp16, 4, false, false}, FormCase{Form::kRange, 2, true, false},
                    FormCase{Form::kRange, 3, false, false}, FormCase{Form::kRange, 4, true, false},
                    FormCase{Form::kRange, 8, true, false},
                    FormCase{Form::kRange, 8, false, false}));

TEST(IcquantOperator, DecodeRowGivesTheCodecsValues) {
  for (uint64_t cols : {65, 576}) {
    const RandomIcquant random({4, Form::kInt8, true, true, 9, cols}, 1);
    std::vector<float> expected(9 * cols), actual(9 * cols);
    random.Open()->DecodeTile(0, 9, 0, cols, expected.data(), cols);
    const auto op = MakeOperator(random);
    for (uint64_t r = 0; r < 9; ++r) op->DecodeRow(r, &actual[r * cols]);
    EXPECT_TRUE(SameBits(actual, expected));
  }
}

TEST(IcquantOperator, WeightBytesCountWhatAProductReads) {
  // 4-bit codes, 32 one-byte centroids and two 2-byte scales a row; for outliers a bit for every
  // eight columns of 512 (each 64 apart), and a byte where one of them is an outlier. Behind the
  // last 512, a bit a column.
  const uint64_t rows = 64, cols = 1024 + 64;
  const RandomIcquant random({4, Form::kInt8, true, true, rows, cols}, 1);
  const auto matrix = random.Open();
  uint64_t map = 0;
  for (uint64_t row = 0; row < rows; ++row) {
    uint64_t words[cols / 64];
    matrix->OutlierBitmap(row, 0, cols / 64, words);
    for (const uint64_t* chunk : {words, words + 8}) {
      const uint64_t some = std::accumulate(chunk, chunk + 8, uint64_t{0}, std::bit_or<>());
      map += 8 + static_cast<uint64_t>(std::popcount(some));
    }
    map += 8;
  }
  EXPECT_EQ(MakeOperator(random)->weight_bytes(), rows * (cols / 2 + 32 + 4) + map);
}

}  // namespace
}  // namespace quantloom::cpu
