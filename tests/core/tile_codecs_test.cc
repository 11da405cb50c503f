// The codecs that are made of tiles, `qtip`, `quip` and `icquant` on top of their tiles, through
// the codec interface.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/codec/plane_set.h"
#include "core/rounding/hessian_factors.h"
#include "core/rounding/proxy_loss.h"
#include "core/transform/incoherence.h"
#include "tests/core/codec_testing.h"
#include "tests/core/every_simd_target.h"
#include "tests/core/rounding_testing.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

struct Input {
  Input(uint64_t row_count, uint64_t col_count, uint32_t seed)
      : rows(row_count),
        cols(col_count),
        weights(GaussianWeights(rows * cols, seed)),
        hessian(CorrelatedHessian(3 * cols, cols, seed + 1)) {}

  EncodedMatrix Encode(absl::string_view recipe, bool with_hessian = true, int threads = 1) const {
    ThreadTeam team(threads);
    HessianFactors factors(hessian);
    auto encoded = (*CreateCodec(recipe))
                       ->Encode({.weights = weights,
                                 .rows = rows,
                                 .cols = cols,
                                 .hessian = with_hessian ? &factors : nullptr,
                                 .input_seed = 7,
                                 .output_seed = 8},
                                team);
    EXPECT_TRUE(encoded.ok()) << encoded.status();
    return *std::move(encoded);
  }

  std::vector<float> Decode(const EncodedMatrix& encoded) const {
    ThreadTeam team(1);
    const auto matrix = OpenMatrix(encoded.recipe, rows, cols, Views(encoded.planes));
    EXPECT_TRUE(matrix.ok()) << matrix.status();
    return Dequantize(**matrix, team);
  }

  uint64_t rows, cols;
  std::vector<float> weights;
  Hessian hessian;
};

// tr(E H E^T) / tr(W H W^T) by its definition.
double PlainProxyLoss(const Input& input, const std::vector<float>& decoded) {
  double error = 0, signal = 0;
  for (uint64_t r = 0; r < input.rows; ++r) {
    const float* w = input.weights.data() + r * input.cols;
    const float* d = decoded.data() + r * input.cols;
    for (uint64_t i = 0; i < input.cols; ++i) {
      for (uint64_t j = 0; j < input.cols; ++j) {
        const double h = input.hessian.at(i, j);
        error += (double{w[i]} - double{d[i]}) * h * (double{w[j]} - double{d[j]});
        signal += double{w[i]} * h * double{w[j]};
      }
    }
  }
  return error / signal;
}

class TileCodecsTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::string recipe() const { return GetParam(); }
};

TEST_P(TileCodecsTest, ReportsTheProxyLossOfWhatItDecodesTo) {
  for (const char* options : {"", ",incoherence=input", ",incoherence=none",
                              ",incoherence=two-sided,hadamard=128", ",rounding=nearest"}) {
    SCOPED_TRACE(options);
    const Input input(32, 64, 1);
    const EncodedMatrix encoded = input.Encode(recipe() + options);
    const std::vector<float> decoded = input.Decode(encoded);
    const double expected = std::strstr(options, "nearest") != nullptr
                                ? RelativeError(input.weights, decoded, {}, input.cols)
                                : PlainProxyLoss(input, decoded);
    EXPECT_NEAR(encoded.relative_error, expected, 1e-4 * expected);
  }
}

TEST_P(TileCodecsTest, FeedbackLosesLessThanNearest) {
  const Input input(48, 96, 2);
  const double feedback = PlainProxyLoss(input, input.Decode(input.Encode(recipe())));
  const double nearest =
      PlainProxyLoss(input, input.Decode(input.Encode(recipe() + ",rounding=nearest")));
  EXPECT_LT(feedback, 0.8 * nearest);
}

TEST_P(TileCodecsTest, WithoutAHessianTheRecipeSaysNearest) {
  const Input input(16, 32, 3);
  const EncodedMatrix encoded = input.Encode(recipe(), /*with_hessian=*/false);
  EXPECT_THAT(encoded.recipe, HasSubstr("rounding=nearest"));
  EXPECT_EQ(encoded.planes[0].bytes,
            input.Encode(recipe() + ",rounding=nearest", false).planes[0].bytes);
}

TEST_P(TileCodecsTest, SameBytesForAnyNumberOfThreadsAndEveryTarget) {
  const Input input(40, 56, 4);  // tiles at both edges are incomplete for 16 x 16
  const EncodedMatrix first = input.Encode(recipe());
  OnEverySimdTarget([&](const std::string&) {
    const EncodedMatrix other = input.Encode(recipe(), true, 3);
    EXPECT_EQ(other.recipe, first.recipe);
    for (size_t i = 0; i < first.planes.size(); ++i) {
      EXPECT_EQ(other.planes[i].bytes, first.planes[i].bytes) << first.planes[i].name;
    }
  });
}

TEST_P(TileCodecsTest, TakesEveryShape) {
  const std::pair<uint64_t, uint64_t> shapes[] = {{1, 1},  {1, 40},  {40, 1},  {5, 7},
                                                  {16, 8}, {17, 33}, {3, 100}, {64, 12}};
  for (const auto& [rows, cols] : shapes) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols));
    const Input input(rows, cols, 5);
    const EncodedMatrix encoded = input.Encode(recipe());
    const std::vector<float> decoded = input.Decode(encoded);
    EXPECT_LT(RelativeError(input.weights, decoded, {}, cols), 0.5);
    const auto matrix = OpenMatrix(encoded.recipe, rows, cols, Views(encoded.planes)).value();
    uint64_t bytes = 0;
    for (const Plane& plane : encoded.planes) bytes += plane.bytes.size();
    EXPECT_NEAR(matrix->bits().total(), 8.0 * static_cast<double>(bytes) / (rows * cols), 1e-9);
  }
}

TEST_P(TileCodecsTest, AnyTileOfTheMatrixDecodesAlone) {
  const Input input(35, 50, 6);
  const EncodedMatrix encoded = input.Encode(recipe());
  const auto matrix = OpenMatrix(encoded.recipe, 35, 50, Views(encoded.planes)).value();
  std::vector<float> all(35 * 50);
  matrix->DecodeTile(0, 35, 0, 50, all.data(), 50);
  for (uint64_t row : {0, 3, 16, 34}) {
    for (uint64_t col : {0, 7, 8, 31, 49}) {
      const uint64_t rows = std::min<uint64_t>(9, 35 - row),
                     cols = std::min<uint64_t>(19, 50 - col);
      std::vector<float> tile(rows * cols);
      matrix->DecodeTile(row, rows, col, cols, tile.data(), cols);
      for (uint64_t i = 0; i < rows * cols; ++i) {
        ASSERT_EQ(tile[i], all[(row + i / cols) * 50 + col + i % cols]);
      }
    }
  }
}

TEST_P(TileCodecsTest, ExtremeWeightsStayFinite) {
  Input input(20, 24, 7);
  std::vector<std::vector<float>> matrices(6, input.weights);
  std::fill(matrices[0].begin(), matrices[0].end(), 0.0f);
  std::fill(matrices[1].begin(), matrices[1].end(), -3.5f);
  for (float& w : matrices[2]) w *= 1e-40f;  // denormal
  for (float& w : matrices[3]) w *= 1e30f;
  matrices[4][37] = 1e4f;
  std::fill_n(matrices[5].begin(), 24, 0.0f);
  for (const std::vector<float>& weights : matrices) {
    input.weights = weights;
    const EncodedMatrix encoded = input.Encode(recipe());
    EXPECT_TRUE(std::isfinite(encoded.relative_error));
    for (const float value : input.Decode(encoded)) ASSERT_TRUE(std::isfinite(value));
  }
  input.weights = matrices[0];
  for (const float value : input.Decode(input.Encode(recipe()))) EXPECT_EQ(value, 0.0f);
}

TEST_P(TileCodecsTest, RejectsWeightsThatAreNotFinite) {
  const Input input(4, 8, 8);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> weights = input.weights;
    weights[2 * 8 + 5] = bad;
    ThreadTeam team(1);
    const auto status =
        (*CreateCodec(recipe()))->Encode({.weights = weights, .rows = 4, .cols = 8}, team).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr("row 2, column 5"));
  }
}

TEST_P(TileCodecsTest, RejectsPlanesThatContradictTheRecipe) {
  const Input input(20, 32, 9);
  const EncodedMatrix good = input.Encode(recipe());
  const auto status = [&](const EncodedMatrix& encoded, uint64_t rows = 20, uint64_t cols = 32) {
    return OpenMatrix(encoded.recipe, rows, cols, Views(encoded.planes)).status();
  };
  EXPECT_TRUE(status(good).ok());
  EXPECT_TRUE(absl::IsDataLoss(status(good, 320, 32)));
  EXPECT_TRUE(absl::IsDataLoss(status(good, uint64_t{1} << 30, uint64_t{1} << 30)));
  EXPECT_TRUE(absl::IsInvalidArgument(status(good, 0, 32)));
  EncodedMatrix bad = good;
  bad.planes.erase(bad.planes.begin() + 1);
  EXPECT_THAT(std::string(status(bad).message()), HasSubstr("'scale' is missing"));
  bad = good;
  bad.planes.push_back(NewPlane("extra", DType::kU8, 1));
  EXPECT_THAT(std::string(status(bad).message()), HasSubstr("'extra'"));
  bad = good;
  bad.planes[1].bytes[63] = 1;
  EXPECT_THAT(std::string(status(bad).message()), HasSubstr("padding"));
  bad = good;
  const float negative = -1;
  std::memcpy(bad.planes[1].bytes.data(), &negative, sizeof(negative));
  EXPECT_TRUE(absl::IsDataLoss(status(bad)));
}

INSTANTIATE_TEST_SUITE_P(Recipes, TileCodecsTest,
                         ::testing::Values("qtip:bits=2", "qtip:bits=1,code=3inst",
                                           "qtip:bits=2.5,code=1mad", "qtip:bits=3,code=hyb",
                                           "quip:bits=2", "quip:bits=3", "quip:bits=4",
                                           "qtip:bits=2,scales=row", "icquant:bits=2,inner=trellis",
                                           "icquant:bits=1.5,inner=trellis,outliers=0.2,code=hyb",
                                           "icquant:bits=3,inner=e8p,outliers=0.1"));

class TileOutliersTest : public ::testing::TestWithParam<const char*> {};

// Every row's largest weights are outliers: they decode to at most 2^n levels of the row, whatever
// the tiles hold in their place.
TEST_P(TileOutliersTest, TheLargestWeightsHaveLevelsOfTheirOwn) {
  constexpr uint64_t kRows = 24, kCols = 320, kOutliers = 32;  // two segments
  Input input(kRows, kCols, 10);
  for (uint64_t i = 0; i < input.weights.size(); i += 10) input.weights[i] *= 20;
  const std::string recipe = absl::StrCat("icquant:outliers=0.1,rounding=nearest,", GetParam());
  const std::vector<float> decoded = input.Decode(input.Encode(recipe, false));
  for (uint64_t r = 0; r < kRows; ++r) {
    std::vector<std::pair<float, float>> row;  // |w|, decoded
    for (uint64_t c = 0; c < kCols; ++c) {
      row.emplace_back(std::fabs(input.weights[r * kCols + c]), decoded[r * kCols + c]);
    }
    std::sort(row.rbegin(), row.rend());
    std::set<float> levels;
    for (uint64_t i = 0; i < kOutliers; ++i) levels.insert(row[i].second);
    EXPECT_LE(levels.size(), 4u);
  }
}

TEST_P(TileOutliersTest, HeavyTailsCostLessThanWithoutOutlierCoding) {
  Input input(32, 320, 11);
  for (uint64_t i = 0; i < input.weights.size(); i += 25) input.weights[i] *= 12;
  const auto error = [&](const char* outliers) {
    const EncodedMatrix encoded = input.Encode(absl::StrCat("icquant:", GetParam(), outliers));
    return PlainProxyLoss(input, input.Decode(encoded));
  };
  EXPECT_LT(error(",outliers=0.05"), 0.5 * error(",outliers=0"));
}

TEST_P(TileOutliersTest, DamageIsDataLossNamingThePlane) {
  const Input input(20, 320, 12);
  const EncodedMatrix good = input.Encode(absl::StrCat("icquant:", GetParam()), false);
  for (size_t i = 1; i < good.planes.size(); ++i) {
    EncodedMatrix bad = good;
    bad.planes.erase(bad.planes.begin() + static_cast<std::ptrdiff_t>(i));
    const auto status = OpenMatrix(bad.recipe, input.rows, input.cols, Views(bad.planes)).status();
    EXPECT_TRUE(absl::IsDataLoss(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr(good.planes[i].name));
  }
  EncodedMatrix bad = good;
  Plane& scale = *std::find_if(bad.planes.begin(), bad.planes.end(),
                               [](const Plane& p) { return p.name == "outlier_scale"; });
  scale.bytes[1] = 0x7f;
  scale.bytes[0] = 0xc0;  // NaN
  const auto status = OpenMatrix(bad.recipe, input.rows, input.cols, Views(bad.planes)).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("outlier_scale"));
}

INSTANTIATE_TEST_SUITE_P(Inner, TileOutliersTest,
                         ::testing::Values("bits=2,inner=trellis", "bits=2,inner=e8p"));

TEST(TileRecipes, AreCanonicalWithDefaults) {
  EXPECT_EQ(
      CreateCodec("qtip").value()->recipe(),
      "qtip:bits=2,code=mul1,hadamard=full,incoherence=two-sided,rounding=ldlq,scales=tensor");
  EXPECT_EQ(CreateCodec("quip:bits=4,incoherence=none").value()->recipe(),
            "quip:bits=4,incoherence=none,rounding=ldlq,scales=tensor");
  EXPECT_EQ(CreateCodec("icquant:bits=2,inner=trellis").value()->recipe(),
            "icquant:bits=2,code=mul1,incoherence=none,index_bits=auto,inner=trellis,"
            "outliers=0.05,rounding=ldlq,scales=row");
  EXPECT_EQ(CreateCodec("icquant:inner=e8p,outliers=0,incoherence=two-sided").value()->recipe(),
            "icquant:bits=2,hadamard=full,incoherence=two-sided,inner=e8p,outliers=0,"
            "rounding=ldlq,scales=row");
}

TEST(TileRecipes, NameWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"qtip:bits=0", "bits=0"},
      {"qtip:bits=2.25", "bits=2.25"},
      {"qtip:bits=x", "bits=x"},
      {"qtip:bits=nan", "bits=nan"},
      {"qtip:bits=8,code=hyb", "bits=8"},
      {"qtip:code=2mad", "code=2mad"},
      {"qtip:colour=red", "'colour'"},
      {"qtip:rounding=up", "rounding=up"},
      {"quip:bits=5", "bits=5"},
      {"quip:code=mul1", "'code'"},
      {"quip:incoherence=both", "incoherence=both"},
      {"quip:hadamard=64", "hadamard=64"},
      {"quip:incoherence=none,hadamard=128", "hadamard=128"},
      {"qtip:input_signs=12", "input_signs=12"}};
  for (const auto& [recipe, named] : cases) {
    const absl::Status status = CreateCodec(recipe).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << recipe;
    EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << recipe;
  }
}

}  // namespace
}  // namespace quantloom
