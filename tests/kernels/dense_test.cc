#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/base/float16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/every_target.h"

namespace quantloom::cpu {
namespace {

struct DenseCase {
  std::vector<uint8_t> bytes;
  std::vector<float> values;  // what the bytes stand for
};

DenseCase MakeDense(DType dtype, size_t rows, size_t cols, uint32_t seed) {
  DenseCase result;
  result.values = RandomFloats(rows * cols, seed, 0.05f);
  result.bytes.resize(rows * cols * DTypeSize(dtype));
  for (size_t i = 0; i < result.values.size(); ++i) {
    float& value = result.values[i];
    if (dtype == DType::kF32) {
      std::memcpy(&result.bytes[4 * i], &value, 4);
      continue;
    }
    const bool half = dtype == DType::kF16;
    const uint16_t bits = half ? FloatToHalf(value) : FloatToBFloat16(value);
    value = half ? HalfToFloat(bits) : BFloat16ToFloat(bits);
    std::memcpy(&result.bytes[2 * i], &bits, 2);
  }
  return result;
}

std::vector<float> Product(const LinearOperator& op, const std::vector<float>& x, size_t tokens) {
  Activations activations;
  activations.Assign(x.data(), tokens, op.cols(), op.cols(), op.activation_form());
  std::vector<float> y(tokens * op.rows());
  op.Multiply(activations, 0, op.rows(), y.data(), op.rows());
  return y;
}

class DenseTypes : public testing::TestWithParam<DType> {};

TEST_P(DenseTypes, EveryShapeIsTheSixteenLaneSumOnEveryTarget) {
  // Columns around the lane and padding boundaries; rows and tokens around the tile sizes, and
  // enough tokens for rows of 16-bit types to be expanded.
  for (size_t cols : {1, 15, 16, 17, 63, 64, 65, 100, 200}) {
    for (size_t rows : {1, 2, 3, 5, 6, 7, 13}) {
      const DenseCase dense = MakeDense(GetParam(), rows, cols, cols * 100 + rows);
      const auto op = LinearOperator::FromDense(rows, cols, GetParam(), dense.bytes);
      ASSERT_TRUE(op.ok()) << op.status();
      for (size_t tokens : {1, 2, 4, 5, 13, 130}) {
        const std::vector<float> x = RandomFloats(tokens * cols, tokens);
        std::vector<float> expected(tokens * rows);
        for (size_t t = 0; t < tokens; ++t) {
          for (size_t r = 0; r < rows; ++r) {
            expected[t * rows + r] = SixteenLaneDot(&dense.values[r * cols], &x[t * cols], cols);
          }
        }
        OnEveryTarget([&](const std::string& target) {
          ASSERT_TRUE(SameBits(Product(**op, x, tokens), expected))
              << target << " rows " << rows << " cols " << cols << " tokens " << tokens;
        });
      }
    }
  }
}

TEST_P(DenseTypes, AnyRowSplitGivesTheSameBits) {
  const size_t rows = 29, cols = 576, tokens = 5;
  const DenseCase dense = MakeDense(GetParam(), rows, cols, 7);
  const auto op = LinearOperator::FromDense(rows, cols, GetParam(), dense.bytes);
  ASSERT_TRUE(op.ok()) << op.status();
  const std::vector<float> x = RandomFloats(tokens * cols, 8);
  const std::vector<float> whole = Product(**op, x, tokens);
  Activations activations;
  activations.Assign(x.data(), tokens, cols, cols, ActivationForm::kFloat);
  for (size_t grain : {1, 4, 7, 28}) {
    std::vector<float> y(tokens * rows);
    for (size_t r = 0; r < rows; r += grain) {
      (*op)->Multiply(activations, r, std::min(r + grain, rows), y.data(), rows);
    }
    EXPECT_TRUE(SameBits(y, whole)) << grain;
  }
}

TEST_P(DenseTypes, DecodeRowGivesTheStoredValues) {
  const size_t rows = 5, cols = 37;
  const DenseCase dense = MakeDense(GetParam(), rows, cols, 3);
  const auto op = LinearOperator::FromDense(rows, cols, GetParam(), dense.bytes);
  ASSERT_TRUE(op.ok()) << op.status();
  std::vector<float> decoded(rows * cols);
  for (size_t r = 0; r < rows; ++r) (*op)->DecodeRow(r, &decoded[r * cols]);
  EXPECT_EQ(decoded, dense.values);
}

INSTANTIATE_TEST_SUITE_P(Types, DenseTypes, testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& param) { return std::string(DTypeName(param.param)); });

TEST(Dense, EveryHalfAndBFloat16ConvertsAsTheReference) {
  // A matrix of one column per bit pattern times 1: its values come back.
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    std::vector<uint16_t> bits;
    std::vector<float> values;
    for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
      const float value = dtype == DType::kF16 ? HalfToFloat(static_cast<uint16_t>(pattern))
                                               : BFloat16ToFloat(static_cast<uint16_t>(pattern));
      if (std::isnan(value)) continue;
      bits.push_back(static_cast<uint16_t>(pattern));
      values.push_back(value == 0.0f ? 0.0f : value);  // 0 + (-0) is 0
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(bits.data());
    const auto op = LinearOperator::FromDense(bits.size(), 1, dtype, {bytes, bits.size() * 2});
    ASSERT_TRUE(op.ok()) << op.status();
    OnEveryTarget(
        [&](const std::string&) { EXPECT_TRUE(SameBits(Product(**op, {1.0f}, 1), values)); });
  }
}

TEST(Dense, RejectsBytesThatContradictTheShape) {
  const std::vector<uint8_t> bytes(24);
  EXPECT_TRUE(LinearOperator::FromDense(2, 3, DType::kF32, bytes).ok());
  for (auto [rows, cols] : {std::pair<uint64_t, uint64_t>{2, 4},
                            {3, 3},
                            {0, 3},
                            {2, 0},
                            {uint64_t{1} << 62, 4},
                            {6, uint64_t{1} << 63}}) {
    const auto op = LinearOperator::FromDense(rows, cols, DType::kF32, bytes);
    EXPECT_EQ(op.status().code(), absl::StatusCode::kInvalidArgument) << rows << " " << cols;
  }
  const auto op = LinearOperator::FromDense(2, 3, DType::kI32, bytes);
  EXPECT_THAT(std::string(op.status().message()), testing::HasSubstr("I32"));
}

}  // namespace
}  // namespace quantloom::cpu
