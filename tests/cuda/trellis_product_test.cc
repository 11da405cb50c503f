// Products with QTIP's tiles: states decoded bit for bit, sums as documented.
#include <algorithm>
#include <cmath>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/codec/tile_matrix.h"
#include "core/codec/trellis.h"
#include "gtest/gtest.h"
#include "tests/cuda/prepared_activations.h"
#include "tests/kernels/random_floats.h"
#include "tests/random_tiles.h"
#include "tests/trellis_state.h"

namespace quantloom::cuda {
namespace {

using cpu::RandomFloats;

struct Format {
  const char* name;
  TrellisCode code;
  int half_bits;
};
void PrintTo(const Format& format, std::ostream* out) {
  *out << format.name << ", " << format.half_bits / 2.0 << " bits";
}

RandomTiles RandomTrellis(const Format& format, uint64_t rows, uint64_t cols, uint32_t seed) {
  return RandomTiles(absl::StrCat("qtip:bits=", format.half_bits / 2.0, ",code=", format.name,
                                  ",incoherence=none,rounding=nearest,scales=row"),
                     rows, cols, 16, 16, static_cast<uint64_t>(format.half_bits) * 16, seed);
}

MatrixImage Image(const PackedMatrix& matrix) {
  ThreadTeam team(2);
  absl::StatusOr<MatrixImage> image = PackedMatrixImage(matrix, MatrixUse::kProduct, team);
  EXPECT_TRUE(image.ok()) << image.status();
  EXPECT_TRUE(std::holds_alternative<TrellisView>(image->view));
  return *std::move(image);
}

std::vector<Format> Formats(std::vector<std::pair<const char*, TrellisCode>> codes) {
  std::vector<Format> formats;
  for (const auto& [name, code] : codes) {
    for (int half_bits = 2; half_bits <= 8; ++half_bits) {
      formats.push_back({name, code, half_bits});
    }
  }
  return formats;
}

// Rows, columns and tokens that do not fill their tiles, panels, blocks or passes.
constexpr uint32_t kShapes[][3] = {{1, 1, 1},    {16, 128, 1}, {17, 129, 9}, {35, 255, 16},
                                   {33, 700, 3}, {16, 40, 75}, {8, 2300, 1}};

// --- 1MAD and MUL1: integers.

class ByteSumTest : public testing::TestWithParam<Format> {
 protected:
  // The sums of four bytes of all weights.
  static std::vector<int> Sums(const TileMatrix& matrix) {
    const Format format = GetParam();
    const TrellisFormat trellis = *TrellisFormat::Create(format.code, format.half_bits);
    std::vector<int> sums;
    for (uint64_t row = 0; row < matrix.rows(); ++row) {
      for (uint64_t c = 0; c < matrix.cols(); ++c) {
        const uint32_t state = TrellisState(trellis, matrix.tile(row / 16, c / 16),
                                            static_cast<int>(row % 16 * 16 + c % 16));
        sums.push_back(510 + (format.code == TrellisCode::k1Mad ? Code1MadInteger(state)
                                                                : CodeMul1Integer(state)));
      }
    }
    return sums;
  }

  // Panels sum exactly; eight partial sums take slabs of panels in turn, and are added.
  static float DocumentedSum(const TileMatrix& matrix, const std::vector<int>& sums,
                             const PreparedActivations& x, uint32_t row, uint32_t token) {
    const uint32_t slab_panels = GetParam().half_bits <= 4 ? 2 : 1;
    float partial[8] = {};
    for (uint32_t panel = 0; panel < x.view().panels; ++panel) {
      int sum = 0;
      const auto end = std::min<uint64_t>((panel + 1) * 128, matrix.cols());
      for (uint32_t c = panel * 128; c < end; ++c) {
        sum += sums[row * matrix.cols() + c] * static_cast<int>(x.Element(token, c));
      }
      float& mine = partial[panel / slab_panels % 8];
      mine = std::fma(static_cast<float>(sum), x.Scale(token, panel), mine);
    }
    float total = 0;
    for (const float sum : partial) total += sum;
    const float unit = GetParam().code == TrellisCode::k1Mad ? k1MadUnit : 1.0f;
    return matrix.scale(row) * unit * std::fma(-510.0f, x.Total(token), total);
  }
};
INSTANTIATE_TEST_SUITE_P(Formats, ByteSumTest,
                         testing::ValuesIn(Formats({{"mul1", TrellisCode::kMul1},
                                                    {"1mad", TrellisCode::k1Mad}})));

TEST_P(ByteSumTest, ProductIsTheDocumentedSumForEveryShape) {
  for (const auto& [rows, cols, tokens] : kShapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const RandomTiles tiles = RandomTrellis(GetParam(), rows, cols, rows + cols);
    const auto packed = tiles.Open();
    const auto& matrix = dynamic_cast<const TileMatrix&>(*packed);
    const MatrixImage image = Image(matrix);
    const std::vector<int> sums = Sums(matrix);
    const PreparedActivations x(ActivationForm::kInt8, RandomFloats(size_t{tokens} * cols, 7),
                                tokens, cols);
    for (launch_seed = 1; launch_seed <= 2; ++launch_seed) {
      const std::vector<float> y = Product(image, x);
      for (uint32_t token = 0; token < tokens; ++token) {
        for (uint32_t row = 0; row < rows; ++row) {
          ASSERT_EQ(y[token * rows + row], DocumentedSum(matrix, sums, x, row, token))
              << "row " << row << ", token " << token;
        }
      }
    }
  }
}

// --- 3INST and HYB: fp16.

class HalfTrellisTest : public testing::TestWithParam<Format> {
 protected:
  static std::vector<float> Values(const PackedMatrix& matrix) {
    std::vector<float> values(matrix.rows() * matrix.cols());
    matrix.DecodeTile(0, matrix.rows(), 0, matrix.cols(), values.data(), matrix.cols());
    return values;
  }
};
INSTANTIATE_TEST_SUITE_P(Formats, HalfTrellisTest,
                         testing::ValuesIn(Formats({{"3inst", TrellisCode::k3Inst},
                                                    {"hyb", TrellisCode::kHyb}})));

// Products with unit vectors are the weights themselves, to the last bit.
TEST_P(HalfTrellisTest, EveryWeightDecodesToItsValue) {
  for (const auto& [rows, cols] : {std::pair{37u, 170u}, {1u, 1u}, {16u, 256u}}) {
    const RandomTiles tiles = RandomTrellis(GetParam(), rows, cols, rows);
    const auto matrix = tiles.Open();
    std::vector<float> unit_vectors(size_t{cols} * cols);
    for (uint32_t c = 0; c < cols; ++c) unit_vectors[size_t{c} * cols + c] = 1;
    const std::vector<float> y = Product(
        Image(*matrix), PreparedActivations(ActivationForm::kHalf, unit_vectors, cols, cols));
    const std::vector<float> values = Values(*matrix);
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t c = 0; c < cols; ++c) {
        ASSERT_EQ(y[c * rows + row], values[row * cols + c]) << "row " << row << ", column " << c;
      }
    }
  }
}

// The bound of dense_product_test.cc, and a rounding each for the stored value and for the scale.
TEST_P(HalfTrellisTest, ProductIsWithinTheBoundOfFp32AccumulationForEveryShape) {
  for (const auto& [rows, cols, tokens] : kShapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols, ", ", tokens, " tokens"));
    const RandomTiles tiles = RandomTrellis(GetParam(), rows, cols, rows + cols);
    const auto matrix = tiles.Open();
    const std::vector<float> w = Values(*matrix);
    const PreparedActivations x(ActivationForm::kHalf, RandomFloats(size_t{tokens} * cols, 7),
                                tokens, cols);
    const std::vector<float> y = Product(Image(*matrix), x);
    for (uint32_t token = 0; token < tokens; ++token) {
      for (uint32_t row = 0; row < rows; ++row) {
        double sum = 0, magnitudes = 0;
        for (uint32_t c = 0; c < cols; ++c) {
          const double term = static_cast<double>(w[row * cols + c]) * x.Element(token, c) *
                              x.Scale(token, c / 128);
          sum += term;
          magnitudes += std::fabs(term);
        }
        const double roundings = cols + x.view().panels + 8 + 2;
        ASSERT_NEAR(y[token * rows + row], sum, roundings * 0x1p-23 * magnitudes)
            << "row " << row << ", token " << token;
      }
    }
  }
}

class TrellisTest : public testing::TestWithParam<Format> {};
INSTANTIATE_TEST_SUITE_P(Codes, TrellisTest,
                         testing::Values(Format{"mul1", TrellisCode::kMul1, 4},
                                         Format{"3inst", TrellisCode::k3Inst, 5},
                                         Format{"hyb", TrellisCode::kHyb, 6}));

TEST_P(TrellisTest, ATokensProductIsTheSameAloneAndAmongOthers) {
  constexpr uint32_t kRows = 20, kCols = 700, kTokens = 70;
  const RandomTiles tiles = RandomTrellis(GetParam(), kRows, kCols, 3);
  const MatrixImage image = Image(*tiles.Open());
  ExpectTokensAgreeAlone(image, kTokens);
}

TEST_P(TrellisTest, ManyTokensGiveTheBitsThatFewGive) {
  const RandomTiles tiles = RandomTrellis(GetParam(), 40, 2200, 3);
  ExpectManyTokensAgreeWithFew(Image(*tiles.Open()));
}

TEST(TrellisImageTest, TakesTheCodesBytesAndScales) {
  const RandomTiles tiles = RandomTrellis({"mul1", TrellisCode::kMul1, 5}, 64, 1024, 3);
  EXPECT_EQ(Image(*tiles.Open()).bytes.size(), 64 * 1024 * 5 / 16 + 64 * 4);
}

TEST(TrellisImageTest, RatesWithoutAKernelAreDecoded) {
  const RandomTiles tiles = RandomTrellis({"mul1", TrellisCode::kMul1, 10}, 20, 130, 3);
  const auto matrix = tiles.Open();
  ThreadTeam team(1);
  const auto image = PackedMatrixImage(*matrix, MatrixUse::kProduct, team);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_TRUE(std::holds_alternative<HalfMatrixView>(image->view));
}

}  // namespace
}  // namespace quantloom::cuda
