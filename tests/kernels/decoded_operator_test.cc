#include "kernels/cpu/decoded_operator.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/every_target.h"
#include "tests/kernels/lossless_matrix.h"

namespace quantloom::cpu {
namespace {

constexpr IncoherenceOptions kPlain = {.kind = IncoherenceKind::kNone};
constexpr IncoherenceOptions kInputSide = {.kind = IncoherenceKind::kInput, .input_seed = 5};
constexpr IncoherenceOptions kTwoSided = {.input_seed = 5, .output_seed = 6};
constexpr IncoherenceOptions kTwoSidedBlocks = {
    .blocks = HadamardBlocks::k128, .input_seed = 7, .output_seed = 8};

// An operator with the matrix that it owns.
struct Decoded {
  explicit Decoded(std::unique_ptr<LosslessMatrix> owned)
      : matrix(owned.get()), op(LinearOperator::FromPacked(std::move(owned))) {}
  const LosslessMatrix* matrix;
  std::unique_ptr<LinearOperator> op;
};

Activations Assign(const std::vector<float>& x, size_t cols) {
  Activations activations;
  activations.Assign(x.data(), x.size() / cols, cols, cols, ActivationForm::kFloat);
  return activations;
}

std::vector<float> Product(const LinearOperator& op, const std::vector<float>& x) {
  const Activations activations = Assign(x, op.cols());
  std::vector<float> y(activations.tokens() * op.rows());
  op.Multiply(activations, 0, op.rows(), y.data(), op.rows());
  return y;
}

TEST(DecodedOperator, EveryShapeIsTheSixteenLaneSumOnEveryTarget) {
  // Columns around the lanes and the padding, rows around the panel, tokens around the tiles.
  for (size_t cols : {1, 15, 16, 17, 63, 64, 65, 100, 200}) {
    for (size_t rows : {1, 5, 16, 17, 37}) {
      const Decoded decoded(RandomLossless(rows, cols, cols * 100 + rows, kTwoSided));
      for (size_t tokens : {1, 2, 5, 13, 130}) {
        const std::vector<float> x = RandomFloats(tokens * cols, tokens);
        std::vector<float> expected;
        for (size_t t = 0; t < tokens; ++t) {
          for (size_t r = 0; r < rows; ++r) {
            expected.push_back(
                SixteenLaneDot(&decoded.matrix->stored()[r * cols], &x[t * cols], cols));
          }
        }
        OnEveryTarget([&](const std::string& target) {
          ASSERT_TRUE(SameBits(Product(*decoded.op, x), expected))
              << target << " rows " << rows << " cols " << cols << " tokens " << tokens;
        });
      }
    }
  }
}

TEST(DecodedOperator, AnyRowSplitGivesTheSameBits) {
  const size_t rows = 53, cols = 576, tokens = 5;
  const Decoded decoded(RandomLossless(rows, cols, 7, kPlain));
  const std::vector<float> x = RandomFloats(tokens * cols, 8);
  const Activations activations = Assign(x, cols);
  OnEveryTarget([&](const std::string&) {
    const std::vector<float> whole = Product(*decoded.op, x);
    for (size_t grain : {1, 4, 7, 16, 28, 48}) {
      std::vector<float> y(tokens * rows);
      for (size_t r = 0; r < rows; r += grain) {
        decoded.op->Multiply(activations, r, std::min(r + grain, rows), y.data(), rows);
      }
      EXPECT_TRUE(SameBits(y, whole)) << grain;
    }
  });
}

TEST(DecodedOperator, ATokenGivesTheSameBitsAloneAndInAnyBatch) {
  const size_t rows = 21, cols = 100, tokens = 203;  // several blocks of tokens
  const Decoded decoded(RandomLossless(rows, cols, 9, kInputSide));
  const std::vector<float> x = RandomFloats(tokens * cols, 10);
  const std::vector<float> batch = Product(*decoded.op, x);
  for (size_t t = 0; t < tokens; ++t) {
    const std::vector<float> alone =
        Product(*decoded.op, {x.begin() + t * cols, x.begin() + (t + 1) * cols});
    ASSERT_TRUE(SameBits(alone, {batch.begin() + t * rows, batch.begin() + (t + 1) * rows})) << t;
  }
}

TEST(DecodedOperator, AnEarlierProductLeavesNothingBehind) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Decoded infinite(std::make_unique<LosslessMatrix>(std::vector<float>(16 * 80, infinity),
                                                          Incoherence(16, 80, kPlain)));
  const Decoded small(RandomLossless(16, 17, 1, kPlain));
  const std::vector<float> x = RandomFloats(17, 2);
  const std::vector<float> before = Product(*small.op, x);
  Product(*infinite.op, RandomFloats(80, 3));
  EXPECT_TRUE(SameBits(Product(*small.op, x), before));
}

TEST(DecodedOperator, AllTokensShareOneDecoding) {
  const size_t rows = 40, cols = 96;
  const Decoded decoded(RandomLossless(rows, cols, 11, kPlain));
  Product(*decoded.op, RandomFloats(500 * cols, 12));
  EXPECT_EQ(decoded.matrix->decoded(), rows * cols);
}

TEST(DecodedOperator, TransformedAndRestoredItIsTheProductWithTheDequantizedMatrix) {
  ThreadTeam team(1);
  const std::pair<size_t, size_t> shapes[] = {
      {1, 1}, {7, 3}, {3, 40}, {20, 12}, {172, 92}, {192, 576}, {100, 127}, {17, 128}, {64, 1536}};
  for (const auto& [rows, cols] : shapes) {
    for (const IncoherenceOptions& options : {kPlain, kInputSide, kTwoSided, kTwoSidedBlocks}) {
      SCOPED_TRACE(testing::Message()
                   << rows << "x" << cols << ", kind " << static_cast<int>(options.kind));
      const Decoded decoded(RandomLossless(rows, cols, 13, options));
      const std::vector<float> w = Dequantize(*decoded.matrix, team);
      const std::vector<float> x = RandomFloats(cols, 14);
      const Incoherence* incoherence = decoded.op->incoherence();
      ASSERT_EQ(incoherence == nullptr, options.kind == IncoherenceKind::kNone);
      OnEveryTarget([&](const std::string&) {
        std::vector<float> transformed = x;
        if (incoherence) incoherence->TransformInputs(absl::MakeSpan(transformed), team);
        std::vector<float> y = Product(*decoded.op, transformed);
        if (incoherence) incoherence->RestoreOutputs(absl::MakeSpan(y), team);
        ExpectProduct(y, w, x, ProductErrorBound(*decoded.matrix));
      });
    }
  }
}

TEST(DecodedOperator, DecodeRowGivesTheDequantizedRow) {
  const size_t rows = 19, cols = 92;
  ThreadTeam team(1);
  for (const IncoherenceOptions& options : {kPlain, kInputSide}) {
    const Decoded decoded(RandomLossless(rows, cols, 15, options));
    EXPECT_TRUE(decoded.op->decodes_rows());
    const std::vector<float> expected = Dequantize(*decoded.matrix, team);
    OnEveryTarget([&](const std::string&) {
      std::vector<float> actual(rows * cols);
      for (size_t r = 0; r < rows; ++r) decoded.op->DecodeRow(r, &actual[r * cols]);
      EXPECT_TRUE(SameBits(actual, expected));
    });
  }
}

TEST(DecodedOperator, RowsBehindATransformOfOutputsAreNotDecoded) {
  EXPECT_FALSE(Decoded(RandomLossless(4, 8, 16, kTwoSided)).op->decodes_rows());
}

TEST(DecodedOperator, WeightBytesAreAllStoredBytes) {
  EXPECT_EQ(Decoded(RandomLossless(3, 50, 17, kPlain)).op->weight_bytes(), 3u * 50 * 4);
}

}  // namespace
}  // namespace quantloom::cpu
