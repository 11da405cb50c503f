// ICQuant: what is encoded decodes, to the nearest levels, at the published distortion.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/float16.h"
#include "core/codec/icquant_matrix.h"
#include "tests/core/codec_testing.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

// Every form that a recipe can ask for.
std::vector<std::string> AllForms() {
  std::vector<std::string> forms;
  for (const int bits : {1, 2, 3, 4}) {
    for (const char* form :
         {"codebook=fp16", "codebook=int8,offset=none", "codebook=int8,offset=row",
          "codebook=tensor", "codebook=int8,inner=rtn,offset=none", "codebook=range,inner=rtn"}) {
      for (const char* outliers : {"0", "0.05", "0.25"}) {
        forms.push_back(absl::StrCat("icquant:bits=", bits, ",", form, ",outliers=", outliers));
      }
    }
  }
  for (const char* form : {"codebook=int8,offset=none", "codebook=int8,offset=row",
                           "codebook=range", "codebook=range,outliers=0.05"}) {
    forms.push_back(absl::StrCat("icquant:bits=8,", form));
  }
  return forms;
}

// --- A second decoder, written from docs/icquant.md over the planes' bytes alone.

class PlaneReader {
 public:
  explicit PlaneReader(const EncodedMatrix& encoded) {
    for (const Plane& plane : encoded.planes) planes_[plane.name] = plane.bytes;
  }
  bool Has(const std::string& name) const { return planes_.contains(name); }
  uint32_t Unsigned(const std::string& name, uint64_t i, size_t size) const {
    uint32_t value = 0;
    for (size_t b = 0; b < size; ++b) {
      value |= static_cast<uint32_t>(planes_.at(name).at(i * size + b)) << (8 * b);
    }
    return value;
  }
  double Half(const std::string& name, uint64_t i) const {
    const uint32_t bits = Unsigned(name, i, 2);
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const double mantissa = bits & 1023;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    return bits >> 15 != 0 ? -magnitude : magnitude;
  }
  double BFloat(const std::string& name, uint64_t i) const {
    const uint32_t bits = Unsigned(name, i, 2) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return static_cast<double>(value);
  }
  int Signed(const std::string& name, uint64_t i) const {
    const int byte = static_cast<int>(Unsigned(name, i, 1));
    return byte < 128 ? byte : byte - 256;
  }

 private:
  std::map<std::string, std::vector<uint8_t>> planes_;
};

uint32_t ReferenceCode(const PlaneReader& planes, uint64_t row_begin, int bits, uint64_t cols,
                       uint64_t column) {
  const uint64_t block = column / 64;
  const uint64_t width = std::min<uint64_t>(64, cols - block * 64);
  const uint64_t c = column % 64;
  const auto part = [&](uint64_t begin, uint64_t part_bits) {
    const uint64_t m = (width * part_bits + 7) / 8;
    return planes.Unsigned("codes", begin + c % m, 1) >> (c / m * part_bits) &
           ((1u << part_bits) - 1);
  };
  const uint64_t begin = row_begin + block * 8 * static_cast<uint64_t>(bits);
  if (bits != 3) return part(begin, static_cast<uint64_t>(bits));
  return part(begin, 2) | part(begin + (width * 2 + 7) / 8, 1) << 2;
}

std::vector<bool> ReferenceOutliers(const PlaneReader& planes, uint64_t row, uint64_t cols,
                                    int index_bits) {
  std::vector<bool> outliers(cols);
  if (!planes.Has("index")) return outliers;
  const uint64_t segments = (cols + 255) / 256;
  uint64_t symbol = planes.Unsigned("index_base", row / 64, 4);
  for (uint64_t i = row / 64 * 64 * segments; i < row * segments; ++i) {
    symbol += planes.Unsigned("index_counts", i, 1);
  }
  for (uint64_t segment = 0; segment < segments; ++segment) {
    int64_t column = static_cast<int64_t>(segment * 256) - 1;
    for (uint32_t left = planes.Unsigned("index_counts", row * segments + segment, 1); left > 0;
         --left, ++symbol) {
      uint32_t value = 0;
      for (int b = 0; b < index_bits; ++b) {
        const uint64_t bit = symbol * static_cast<uint64_t>(index_bits) + static_cast<uint64_t>(b);
        value |= (planes.Unsigned("index", bit / 8, 1) >> (bit % 8) & 1u) << b;
      }
      column += value == 0 ? (1 << index_bits) - 1 : static_cast<int64_t>(value);
      if (value != 0) outliers.at(static_cast<size_t>(column)) = true;
    }
  }
  return outliers;
}

double ReferenceLevel(const PlaneReader& planes, uint64_t row, int bits, uint32_t part,
                      uint32_t code, const std::string& form) {
  const uint32_t parts = planes.Has("index") ? 2 : 1;
  const uint64_t level = part << bits | code;
  const uint64_t levels = uint64_t{parts} << bits;
  if (form == "fp16") return planes.Half("codebook", row * levels + level);
  if (form == "range") {
    const uint32_t half = 1u << (bits - 1);
    const uint32_t range = part == 0 ? 0 : (code < half ? 1 : 2);
    const uint64_t first = (row * (parts == 2 ? 3 : 1) + range) * 2;
    const uint32_t i = range == 2 ? code - half : code;
    return planes.Half("range", first) + planes.Half("range", first + 1) * i;
  }
  const double q = bits == 8
                       ? (code < 128 ? code : static_cast<double>(code) - 256)
                       : planes.Signed("codebook", form == "tensor" ? level : row * levels + level);
  return planes.BFloat("scale", row) * q +
         (planes.Has("offset") ? planes.BFloat("offset", row) : 0.0);
}

std::vector<float> ReferenceDecode(const Stored& stored) {
  const PlaneReader planes(stored.encoded);
  const auto recipe = Recipe::Parse(stored.encoded.recipe);
  const int bits = std::stoi(recipe->options.at("bits"));
  const auto index_bits = recipe->options.find("index_bits");
  const uint64_t cols = stored.matrix->cols();
  uint64_t row_bytes = cols / 64 * 8 * static_cast<uint64_t>(bits);
  const uint64_t tail = cols % 64;
  row_bytes += bits == 3 ? (tail * 2 + 7) / 8 + (tail + 7) / 8
                         : (tail * static_cast<uint64_t>(bits) + 7) / 8;
  std::vector<float> values;
  for (uint64_t row = 0; row < stored.matrix->rows(); ++row) {
    const std::vector<bool> outliers = ReferenceOutliers(
        planes, row, cols, index_bits == recipe->options.end() ? 0 : std::stoi(index_bits->second));
    for (uint64_t c = 0; c < cols; ++c) {
      const uint32_t code = ReferenceCode(planes, row * row_bytes, bits, cols, c);
      values.push_back(static_cast<float>(ReferenceLevel(planes, row, bits, outliers[c] ? 1 : 0,
                                                         code, recipe->options.at("codebook"))));
    }
  }
  return values;
}

// --- The outliers by definition: sort all columns.
std::vector<bool> ReferenceOutlierSet(absl::Span<const float> row, double gamma) {
  std::vector<uint64_t> order(row.size());
  for (uint64_t c = 0; c < row.size(); ++c) order[c] = c;
  std::stable_sort(order.begin(), order.end(),
                   [&](uint64_t a, uint64_t b) { return std::fabs(row[a]) > std::fabs(row[b]); });
  std::vector<bool> outliers(row.size());
  const auto count = static_cast<uint64_t>(std::lround(gamma * static_cast<double>(row.size())));
  for (uint64_t i = 0; i < count; ++i) outliers[order[i]] = true;
  return outliers;
}

std::vector<bool> StoredOutliers(const IcquantMatrix& matrix, uint64_t row) {
  std::vector<uint64_t> words((matrix.cols() + 63) / 64);
  matrix.OutlierBitmap(row, 0, words.size(), words.data());
  std::vector<bool> outliers(matrix.cols());
  for (uint64_t c = 0; c < matrix.cols(); ++c) outliers[c] = (words[c / 64] >> (c % 64) & 1) != 0;
  return outliers;
}

void ExpectEveryWeightHasItsNearestLevel(const Stored& stored, absl::Span<const float> weights) {
  const IcquantMatrix& matrix = stored.icquant();
  const std::vector<float> decoded = stored.Decode();
  std::vector<float> table(matrix.levels());
  // With 8 bits in the integer form the code -128 is not used.
  const uint32_t per_part = 1u << matrix.code_bits();
  for (uint64_t r = 0; r < matrix.rows(); ++r) {
    matrix.RowLevels(r, table.data());
    if (matrix.code_bits() == 8 && matrix.integer_form()) table[128] = table[129];
    const std::vector<bool> outliers = StoredOutliers(matrix, r);
    for (uint64_t c = 0; c < matrix.cols(); ++c) {
      const double w = static_cast<double>(weights[r * matrix.cols() + c]);
      double least = std::numeric_limits<double>::infinity();
      for (uint32_t k = 0; k < per_part; ++k) {
        const uint32_t level = (outliers[c] ? per_part : 0) + k;
        least = std::min(least, std::fabs(w - static_cast<double>(table[level])));
      }
      const double miss = std::fabs(w - static_cast<double>(decoded[r * matrix.cols() + c]));
      ASSERT_EQ(miss, least) << stored.encoded.recipe << " row " << r << " column " << c;
    }
  }
}

void ExpectRoundTrip(const std::string& recipe, uint64_t rows, uint64_t cols, uint32_t seed) {
  SCOPED_TRACE(absl::StrCat(recipe, " [", rows, ", ", cols, "]"));
  const std::vector<float> weights = GaussianWeights(rows * cols, seed);
  const Stored stored = EncodeAndOpen(recipe, weights, rows, cols);
  const std::vector<float> decoded = stored.Decode();
  ASSERT_EQ(decoded, ReferenceDecode(stored));
  ExpectEveryWeightHasItsNearestLevel(stored, weights);
  EXPECT_NEAR(stored.encoded.relative_error, RelativeError(weights, decoded, {}, cols), 1e-9);

  uint64_t bytes = 0;
  for (const Plane& plane : stored.encoded.planes) {
    EXPECT_EQ(plane.bytes.size() % 64, 0u) << plane.name;
    bytes += plane.bytes.size();
  }
  EXPECT_EQ(stored.icquant().stored_bytes(), bytes);
  EXPECT_NEAR(stored.matrix->bits().total() * static_cast<double>(rows * cols),
              static_cast<double>(bytes * 8), 1e-3);

  std::mt19937 random(seed);
  for (int trial = 0; trial < 5; ++trial) {
    const uint64_t row = random() % rows;
    const uint64_t col = random() % cols;
    const uint64_t tile_rows = random() % (rows - row + 1);
    const uint64_t tile_cols = random() % (cols - col + 1);
    const uint64_t stride = tile_cols + 3;
    std::vector<float> tile(tile_rows * stride, -99);
    stored.matrix->DecodeTile(row, tile_rows, col, tile_cols, tile.data(), stride);
    for (uint64_t r = 0; r < tile_rows; ++r) {
      for (uint64_t c = 0; c < stride; ++c) {
        ASSERT_EQ(tile[r * stride + c],
                  c < tile_cols ? decoded[(row + r) * cols + col + c] : -99.0f);
      }
    }
  }
}

TEST(IcquantTest, RoundTrip_EveryFormOnOddShapes) {
  struct Shape {
    uint64_t rows, cols;
  };
  for (const Shape shape :
       {Shape{1, 1}, Shape{1, 300}, Shape{70, 1}, Shape{3, 65}, Shape{130, 48}, Shape{2, 576}}) {
    uint32_t seed = 1;
    for (const std::string& form : AllForms())
      ExpectRoundTrip(form, shape.rows, shape.cols, ++seed);
  }
}

TEST(IcquantTest, RoundTrip_EveryWidthUpTo200) {
  for (uint64_t cols = 1; cols <= 200; ++cols) {
    for (const char* recipe :
         {"icquant:bits=1,codebook=int8", "icquant:bits=2,outliers=0.1",
          "icquant:bits=3,codebook=tensor", "icquant:bits=4,codebook=fp16", "icquant:bits=8"}) {
      ExpectRoundTrip(recipe, 2, cols, static_cast<uint32_t>(cols));
    }
  }
}

TEST(IcquantTest, RoundTrip_LongRows) {
  for (const uint64_t cols : {1536, 4096, 4097}) {
    ExpectRoundTrip("icquant:bits=2", 3, cols, 5);
    ExpectRoundTrip("icquant:bits=3,outliers=0.25,index_bits=2", 2, cols, 6);
    ExpectRoundTrip("icquant:bits=4,outliers=0.01,index_bits=8", 2, cols, 7);
  }
}

TEST(IcquantTest, Encode_OutliersAreTheLargestMagnitudes) {
  for (const uint64_t cols : {10u, 64u, 576u, 1537u}) {
    for (const double gamma : {0.05, 0.25}) {
      std::vector<float> weights = GaussianWeights(4 * cols, 3);
      // Ties in row 0, spread so that no segment is full.
      for (uint64_t c = 0; c < cols; ++c)
        weights[c] = c % 2 == 1 ? 0.5f : (c % 3 == 0 ? -2.0f : 2.0f);
      const Stored stored =
          EncodeAndOpen(absl::StrCat("icquant:bits=2,outliers=", gamma), weights, 4, cols);
      for (uint64_t r = 0; r < 4; ++r) {
        EXPECT_EQ(StoredOutliers(stored.icquant(), r),
                  ReferenceOutlierSet(absl::MakeSpan(weights).subspan(r * cols, cols), gamma))
            << "row " << r << " of " << cols << " columns";
      }
    }
  }
}

// A whole segment among the largest: its smallest stays an inlier, because counts are bytes.
TEST(IcquantTest, Encode_SegmentFullOfOutliersLeavesOutItsSmallest) {
  constexpr uint64_t kCols = 1024;
  std::vector<float> weights = GaussianWeights(kCols, 4);
  for (uint64_t c = 256; c < 512; ++c) weights[c] = 100.0f + static_cast<float>(c);
  weights[300] = 99.0f;
  for (const int index_bits : {2, 8}) {
    const Stored stored = EncodeAndOpen(
        absl::StrCat("icquant:bits=4,outliers=0.25,index_bits=", index_bits), weights, 1, kCols);
    std::vector<bool> expected(kCols);
    for (uint64_t c = 256; c < 512; ++c) expected[c] = c != 300;
    EXPECT_EQ(StoredOutliers(stored.icquant(), 0), expected);
  }
}

TEST(IcquantTest, Encode_TooFewColumnsForOutliersResolvesToNone) {
  const std::vector<float> weights = GaussianWeights(9 * 4, 4);
  const Stored stored = EncodeAndOpen("icquant:bits=2,index_bits=6", weights, 4, 9);
  EXPECT_THAT(stored.encoded.recipe, HasSubstr("outliers=0"));
  EXPECT_FALSE(stored.icquant().has_outliers());
}

TEST(IcquantTest, Encode_ResolvedRecipeHasNoAuto) {
  const std::vector<float> weights = GaussianWeights(64 * 576, 4);
  for (const char* recipe :
       {"icquant:bits=1", "icquant:bits=2", "icquant:bits=4", "icquant:bits=3,inner=rtn",
        "icquant:bits=8", "icquant:bits=8,outliers=0.02"}) {
    const Stored stored = EncodeAndOpen(recipe, weights, 64, 576);
    EXPECT_THAT(stored.encoded.recipe, testing::Not(HasSubstr("auto")));
    EXPECT_EQ(stored.matrix->recipe(), stored.encoded.recipe);
  }
}

// RTN as in the paper: inlier levels divide the range evenly; the outliers' levels are half on the
// negative tail, half on the positive one.
TEST(IcquantTest, Rtn_LevelsAreUniformOverEachPartsRange) {
  std::vector<float> weights(40);
  for (size_t c = 0; c < 40; ++c) weights[c] = -1.0f + static_cast<float>(c) / 16.0f;
  weights[3] = -8;
  weights[7] = -5;
  weights[20] = 4;
  weights[30] = 10;
  const Stored stored =
      EncodeAndOpen("icquant:bits=2,inner=rtn,outliers=0.1,codebook=range", weights, 1, 40);
  std::vector<float> table(8);
  stored.icquant().RowLevels(0, table.data());
  const float lowest = -1.0f;
  const float highest = weights[39];  // 1.4375
  for (int i = 0; i < 4; ++i) {
    const float level = lowest + (highest - lowest) * static_cast<float>(i) / 3;
    EXPECT_NEAR(table[static_cast<size_t>(i)], level, 1e-3);
  }
  EXPECT_THAT(std::vector<float>(table.begin() + 4, table.end()),
              testing::ElementsAre(-8, -5, 4, 10));
  const std::vector<float> decoded = stored.Decode();
  EXPECT_EQ(decoded[3], -8);
  EXPECT_EQ(decoded[20], 4);
}

TEST(IcquantTest, Rtn_TailsOnOneSideOnly) {
  std::vector<float> weights(100, 0.5f);
  for (size_t c = 0; c < 100; ++c) weights[c] += static_cast<float>(c) / 1000;
  weights[5] = 9;
  weights[6] = 7;
  weights[50] = 3;
  weights[51] = 5;
  weights[52] = 6;
  const Stored stored = EncodeAndOpen("icquant:bits=2,inner=rtn,codebook=range", weights, 1, 100);
  std::vector<float> table(8);
  stored.icquant().RowLevels(0, table.data());
  EXPECT_THAT(std::vector<float>(table.begin() + 4, table.end()), testing::ElementsAre(0, 0, 3, 9));
}

// --- Distortion on N(0, 1).

// Lloyd-Max distortions: Max 1960, table I.
TEST(IcquantTest, Kmeans_GaussianWithoutOutliersReachesLloydMax) {
  constexpr uint64_t kRows = 24;
  constexpr uint64_t kCols = 4096;
  const std::vector<float> weights = GaussianWeights(kRows * kCols, 11);
  const double published[] = {0, 0.3634, 0.1175, 0.03454, 0.009497};
  for (int bits = 1; bits <= 4; ++bits) {
    for (const char* form : {"fp16", "int8", "tensor"}) {
      const Stored stored =
          EncodeAndOpen(absl::StrCat("icquant:bits=", bits, ",outliers=0,codebook=", form), weights,
                        kRows, kCols);
      // Fitting 2^n levels to a row's own 4096 values can only gain a little on the density's.
      EXPECT_LT(stored.encoded.relative_error, published[bits] * 1.015) << form << bits;
      EXPECT_GT(stored.encoded.relative_error, published[bits] * 0.96) << form << bits;
    }
  }
}

// Distortion of the optimum 2-part quantizer of the N(0, 1) density: Lloyd's iteration on the
// density's quantiles, part by part.
double GaussianPartOptimum(const std::vector<double>& quantiles, bool outliers, double gamma,
                           size_t levels) {
  std::vector<double> part;
  const size_t tail = static_cast<size_t>(gamma / 2 * static_cast<double>(quantiles.size()));
  for (size_t i = 0; i < quantiles.size(); ++i) {
    const bool in_tail = i < tail || i >= quantiles.size() - tail;
    if (in_tail == outliers) part.push_back(quantiles[i]);
  }
  std::vector<double> centroids(levels);
  for (size_t k = 0; k < levels; ++k) centroids[k] = part[(2 * k + 1) * part.size() / (2 * levels)];
  double error = 0;
  for (int iteration = 0; iteration < 300; ++iteration) {
    std::vector<double> sum(levels);
    std::vector<double> count(levels);
    error = 0;
    size_t k = 0;
    for (const double x : part) {
      while (k + 1 < levels && x > (centroids[k] + centroids[k + 1]) / 2) ++k;
      sum[k] += x;
      count[k] += 1;
      error += (x - centroids[k]) * (x - centroids[k]);
    }
    for (size_t i = 0; i < levels; ++i) centroids[i] = sum[i] / count[i];
  }
  return error / static_cast<double>(quantiles.size());
}

TEST(IcquantTest, Kmeans_GaussianWithOutliersReachesTheDensitysOptimum) {
  std::vector<double> quantiles(100000);
  for (size_t i = 0; i < quantiles.size(); ++i) {
    const double p = (static_cast<double>(i) + 0.5) / static_cast<double>(quantiles.size());
    double low = -8;
    double high = 8;
    for (int step = 0; step < 60; ++step) {
      const double x = (low + high) / 2;
      (std::erfc(-x / std::sqrt(2.0)) / 2 < p ? low : high) = x;
    }
    quantiles[i] = low;
  }
  constexpr uint64_t kRows = 24;
  constexpr uint64_t kCols = 4096;
  const std::vector<float> weights = GaussianWeights(kRows * kCols, 12);
  for (const int bits : {2, 3}) {
    const size_t levels = size_t{1} << bits;
    const double optimum = GaussianPartOptimum(quantiles, false, 0.05, levels) +
                           GaussianPartOptimum(quantiles, true, 0.05, levels);
    for (const char* form : {"fp16", "int8", "tensor"}) {
      const Stored stored = EncodeAndOpen(absl::StrCat("icquant:bits=", bits, ",codebook=", form),
                                          weights, kRows, kCols);
      EXPECT_LT(stored.encoded.relative_error, optimum * 1.02) << form << bits;
      EXPECT_GT(stored.encoded.relative_error, optimum * 0.94) << form << bits;
    }
  }
}

// An independent fit: Lloyd's iteration on the row's own values from many random starts.
double RestartedLloyd(const std::vector<double>& values, const std::vector<double>& weights,
                      size_t levels, std::mt19937& random) {
  double best = std::numeric_limits<double>::infinity();
  for (int start = 0; start < 60; ++start) {
    std::vector<double> centroids(levels);
    for (double& c : centroids) c = values[random() % values.size()];
    double error = std::numeric_limits<double>::infinity();
    for (int iteration = 0; iteration < 40; ++iteration) {
      std::vector<double> sum(levels);
      std::vector<double> count(levels);
      error = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        size_t nearest = 0;
        for (size_t k = 1; k < levels; ++k) {
          if (std::fabs(values[i] - centroids[k]) < std::fabs(values[i] - centroids[nearest])) {
            nearest = k;
          }
        }
        const double miss = values[i] - centroids[nearest];
        error += weights[i] * miss * miss;
        sum[nearest] += weights[i] * values[i];
        count[nearest] += weights[i];
      }
      for (size_t k = 0; k < levels; ++k) {
        if (count[k] > 0) centroids[k] = sum[k] / count[k];
      }
    }
    best = std::min(best, error);
  }
  return best;
}

TEST(IcquantTest, Kmeans_WeightedErrorIsNoWorseThanRestartedLloyd) {
  constexpr uint64_t kCols = 150;
  std::mt19937 random(8);
  std::vector<float> importance(kCols);
  for (float& value : importance) value = static_cast<float>(random() % 100 + 1);
  const std::vector<float> weights = GaussianWeights(3 * kCols, 13);
  for (const int bits : {1, 2, 3}) {
    double reference = 0;
    double signal = 0;
    for (uint64_t r = 0; r < 3; ++r) {
      const absl::Span<const float> row = absl::MakeSpan(weights).subspan(r * kCols, kCols);
      const std::vector<bool> outliers = ReferenceOutlierSet(row, 0.1);
      for (const bool part : {false, true}) {
        std::vector<double> values;
        std::vector<double> point_weights;
        for (uint64_t c = 0; c < kCols; ++c) {
          if (outliers[c] != part) continue;
          values.push_back(static_cast<double>(row[c]));
          point_weights.push_back(static_cast<double>(importance[c]));
          signal += point_weights.back() * values.back() * values.back();
        }
        reference += RestartedLloyd(values, point_weights, size_t{1} << bits, random);
      }
    }
    const Stored stored =
        EncodeAndOpen(absl::StrCat("icquant:outliers=0.1,codebook=fp16,bits=", bits), weights, 3,
                      kCols, importance);
    // fp16 rounding of the centroids adds a relative 2^-22 at most.
    EXPECT_LE(stored.encoded.relative_error, reference / signal * (1 + 1e-5) + 1e-7);
    const Stored bytes =
        EncodeAndOpen(absl::StrCat("icquant:outliers=0.1,codebook=int8,bits=", bits), weights, 3,
                      kCols, importance);
    EXPECT_LE(bytes.encoded.relative_error, reference / signal * 1.01 + 1e-4);
  }
}

TEST(IcquantTest, EightBits_ErrorIsThatOfUniformSteps) {
  const std::vector<float> weights = GaussianWeights(16 * 576, 14);
  for (const char* recipe :
       {"icquant:bits=8,codebook=int8,offset=none", "icquant:bits=8,codebook=int8,offset=row",
        "icquant:bits=8,codebook=range"}) {
    const Stored stored = EncodeAndOpen(recipe, weights, 16, 576);
    double expected = 0;  // step^2 / 12 with 127 steps to the largest weight
    for (uint64_t r = 0; r < 16; ++r) {
      double most = 0;
      for (uint64_t c = 0; c < 576; ++c) {
        most = std::max(most, std::fabs(static_cast<double>(weights[r * 576 + c])));
      }
      expected += most / 127 * most / 127 / 12 / 16;
    }
    EXPECT_LT(stored.encoded.relative_error, expected * 1.05) << recipe;
  }
}

// --- Choices left to the encoder.

TEST(IcquantTest, Auto_IsNoWorseThanAnyFormByRateAndError) {
  const std::vector<float> weights = GaussianWeights(192 * 576, 15);
  for (const int bits : {2, 4}) {
    const auto score = [&](const std::string& codebook) {
      const Stored stored = EncodeAndOpen(
          absl::StrCat("icquant:bits=", bits, ",codebook=", codebook), weights, 192, 576);
      return std::log2(stored.encoded.relative_error) / 2 + stored.matrix->bits().total();
    };
    const double chosen = score("auto");
    for (const char* form : {"fp16", "int8", "tensor"}) {
      EXPECT_LE(chosen, score(form) + 0.01) << bits << " bits against " << form;
    }
  }
}

TEST(IcquantTest, Auto_IndexWidthIsTheSmallestStream) {
  const std::vector<float> weights = GaussianWeights(64 * 1536, 16);
  for (const char* outliers : {"0.01", "0.05", "0.2"}) {
    const std::string recipe = absl::StrCat("icquant:bits=2,codebook=tensor,outliers=", outliers);
    const double chosen = EncodeAndOpen(recipe, weights, 64, 1536).matrix->bits().index;
    double best = 99;
    for (int bits = 2; bits <= 8; ++bits) {
      best = std::min(best,
                      EncodeAndOpen(absl::StrCat(recipe, ",index_bits=", bits), weights, 64, 1536)
                          .matrix->bits()
                          .index);
    }
    EXPECT_EQ(chosen, best) << outliers;
  }
}

TEST(IcquantTest, Auto_RowsFarFromZeroGetAnOffset) {
  std::vector<float> weights = GaussianWeights(32 * 576, 17);
  for (float& w : weights) w += 20;
  const Stored stored = EncodeAndOpen("icquant:bits=8", weights, 32, 576);
  EXPECT_TRUE(stored.icquant().has_offset());
  const Stored none = EncodeAndOpen("icquant:bits=8,offset=none", weights, 32, 576);
  EXPECT_LT(stored.encoded.relative_error, none.encoded.relative_error / 10);
}

TEST(IcquantTest, Bits_BreakdownIsWithinBudgets) {
  for (const uint64_t cols : {576u, 1536u, 4096u}) {
    const std::vector<float> weights = GaussianWeights(128 * cols, 18);
    const BitBreakdown bits =
        EncodeAndOpen("icquant:bits=2,index_bits=6,codebook=int8,offset=none", weights, 128, cols)
            .matrix->bits();
    EXPECT_EQ(bits.codes, 2);
    EXPECT_LT(bits.checkpoints, 0.05) << cols;
    const double columns = static_cast<double>(cols);
    const double gamma = std::lround(0.05 * columns) / columns;
    const double formula = gamma * 6 * (1 + 1 / std::expm1(gamma * 63));
    EXPECT_NEAR(bits.index / formula, 1, 0.02) << cols;
    EXPECT_NEAR(bits.codebooks, (8 * 8 + 16) / columns, 1e-9);
  }
}

// --- Importance.

TEST(IcquantTest, Importance_MovesErrorToColumnsThatMatterLess) {
  constexpr uint64_t kCols = 256;
  const std::vector<float> weights = GaussianWeights(16 * kCols, 19);
  std::vector<float> importance(kCols, 1.0f);
  for (uint64_t c = 0; c < kCols; c += 4) importance[c] = 50;
  for (const char* form : {"fp16", "int8", "tensor"}) {
    const std::string recipe = absl::StrCat("icquant:bits=2,codebook=", form);
    const Stored weighted = EncodeAndOpen(recipe, weights, 16, kCols, importance);
    const Stored plain = EncodeAndOpen(recipe, weights, 16, kCols);
    EXPECT_NEAR(weighted.encoded.relative_error,
                RelativeError(weights, weighted.Decode(), importance, kCols), 1e-6);
    EXPECT_LT(weighted.encoded.relative_error,
              RelativeError(weights, plain.Decode(), importance, kCols) * 0.985)
        << form;
  }
}

TEST(IcquantTest, Importance_ZeroColumnsStillGetNearestLevels) {
  constexpr uint64_t kCols = 96;
  const std::vector<float> weights = GaussianWeights(4 * kCols, 20);
  for (const float on : {0.0f, 1.0f, 1e30f}) {
    std::vector<float> importance(kCols, 0.0f);
    for (uint64_t c = 0; c < kCols / 2; ++c) importance[c] = on;
    const Stored stored =
        EncodeAndOpen("icquant:bits=3,codebook=int8", weights, 4, kCols, importance);
    ExpectEveryWeightHasItsNearestLevel(stored, weights);
    EXPECT_LT(RelativeError(weights, stored.Decode(), {}, kCols), 0.2);
  }
}

// --- Awkward rows.

TEST(IcquantTest, Rows_ZeroAndConstant) {
  constexpr uint64_t kCols = 100;
  std::vector<float> weights(3 * kCols, 0.0f);
  std::fill(weights.begin() + kCols, weights.begin() + 2 * kCols, 0.3f);
  std::fill(weights.begin() + 2 * kCols, weights.end(), -7.0f);
  for (const std::string& form : AllForms()) {
    const Stored stored = EncodeAndOpen(form, weights, 3, kCols);
    const std::vector<float> decoded = stored.Decode();
    for (uint64_t i = 0; i < weights.size(); ++i) {
      ASSERT_NEAR(decoded[i], weights[i], std::fabs(weights[i]) * 0.01f) << form;
    }
  }
  const std::vector<float> zeros(200, 0.0f);
  for (const std::string& form : AllForms()) {
    EXPECT_EQ(EncodeAndOpen(form, zeros, 2, 100).encoded.relative_error, 0) << form;
  }
}

TEST(IcquantTest, Rows_HugeOutlierLeavesTheInliersAlone) {
  constexpr uint64_t kCols = 576;
  std::vector<float> weights = GaussianWeights(kCols, 21);
  weights[100] = 1e4f;
  const Stored stored = EncodeAndOpen("icquant:bits=2,codebook=fp16", weights, 1, kCols);
  std::vector<float> decoded = stored.Decode();
  EXPECT_NEAR(decoded[100], 1e4f, 10);
  weights[100] = decoded[100] = 0;
  EXPECT_LT(RelativeError(weights, decoded, {}, kCols), 0.12);
}

TEST(IcquantTest, Rows_TinyAndHugeMagnitudesUseIntegerForms) {
  constexpr uint64_t kCols = 200;
  for (const float magnitude : {1e-30f, 1e-9f, 1e9f, 1e37f}) {
    std::vector<float> weights = GaussianWeights(4 * kCols, 22);
    for (float& w : weights) w *= magnitude;
    for (const char* recipe : {"icquant:bits=2", "icquant:bits=4,codebook=int8",
                               "icquant:bits=4,codebook=tensor", "icquant:bits=8"}) {
      const Stored stored = EncodeAndOpen(recipe, weights, 4, kCols);
      EXPECT_TRUE(stored.icquant().integer_form()) << magnitude;
      EXPECT_LT(stored.encoded.relative_error, 0.12) << magnitude << " " << recipe;
    }
  }
}

TEST(IcquantTest, Rows_SubnormalWeightsDecodeNearZero) {
  std::vector<float> weights = GaussianWeights(3 * 64, 23);
  for (float& w : weights) w *= 1e-41f;
  for (const std::string& form : AllForms()) {
    for (const float value : EncodeAndOpen(form, weights, 3, 64).Decode()) {
      ASSERT_LT(std::fabs(value), 1e-38f) << form;
    }
  }
}

TEST(IcquantTest, Rows_MixedScalesInOneMatrix) {
  constexpr uint64_t kCols = 256;
  std::vector<float> weights = GaussianWeights(6 * kCols, 24);
  for (uint64_t r = 0; r < 6; ++r) {
    for (uint64_t c = 0; c < kCols; ++c)
      weights[r * kCols + c] *= std::ldexp(1.0f, 4 * static_cast<int>(r) - 12);
  }
  for (const char* form : {"fp16", "int8", "tensor"}) {
    const Stored stored =
        EncodeAndOpen(absl::StrCat("icquant:bits=3,codebook=", form), weights, 6, kCols);
    const std::vector<float> decoded = stored.Decode();
    for (uint64_t r = 0; r < 6; ++r) {
      EXPECT_LT(RelativeError(absl::MakeSpan(weights).subspan(r * kCols, kCols),
                              absl::MakeSpan(decoded).subspan(r * kCols, kCols), {}, kCols),
                0.05)
          << form << " row " << r;
    }
  }
}

// --- Refused input.

absl::Status EncodeStatus(absl::string_view recipe, absl::Span<const float> weights, uint64_t rows,
                          uint64_t cols, absl::Span<const float> importance = {}) {
  ThreadTeam team(2);
  return (*CreateCodec(recipe))
      ->Encode({.weights = weights, .rows = rows, .cols = cols, .importance = importance}, team)
      .status();
}

TEST(IcquantTest, Encode_RejectsWeightsThatAreNotFiniteByRowAndColumn) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity(), 3e38f}) {
    std::vector<float> weights(40 * 10, 1.0f);
    weights[17 * 10 + 3] = bad;
    weights[30 * 10 + 1] = bad;
    const absl::Status status = EncodeStatus("icquant:bits=2", weights, 40, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("row 17, column 3"));
  }
}

TEST(IcquantTest, Encode_RejectsShapesAndImportanceThatDoNotFit) {
  const std::vector<float> weights(12, 1.0f);
  EXPECT_EQ(EncodeStatus("icquant", weights, 3, 5).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeStatus("icquant", {}, 0, 5).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeStatus("icquant", {}, 5, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeStatus("icquant", {}, uint64_t{1} << 32, uint64_t{1} << 32).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(EncodeStatus("icquant", weights, 3, 4, {1.f, 2.f}).message()),
              HasSubstr("importance has 2 entries for 4 columns"));
  EXPECT_THAT(std::string(EncodeStatus("icquant", weights, 3, 4, {1.f, -2.f, 1.f, 1.f}).message()),
              HasSubstr("importance of column 1 is -2"));
  EXPECT_THAT(std::string(EncodeStatus("icquant", weights, 3, 4, {1.f, 1.f, NAN, 1.f}).message()),
              HasSubstr("importance of column 2"));
}

TEST(IcquantTest, Encode_RejectsWeightsBeyondHalfForHalfForms) {
  std::vector<float> weights(100, 1.0f);
  weights[5] = 7e4f;
  for (const char* recipe : {"icquant:codebook=fp16", "icquant:inner=rtn,codebook=range"}) {
    const absl::Status status = EncodeStatus(recipe, weights, 1, 100);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("65504"));
  }
}

// --- Determinism.

TEST(IcquantTest, Encode_SameBytesForAnyNumberOfThreads) {
  const std::vector<float> weights = GaussianWeights(200 * 300, 25);
  std::vector<float> importance(300);
  for (size_t c = 0; c < 300; ++c) importance[c] = static_cast<float>(c % 17 + 1);
  for (const char* recipe :
       {"icquant:bits=2", "icquant:bits=2,codebook=tensor", "icquant:bits=3,codebook=fp16",
        "icquant:bits=4,codebook=int8", "icquant:bits=4,inner=rtn", "icquant:bits=8"}) {
    const Stored one = EncodeAndOpen(recipe, weights, 200, 300, importance, 1);
    for (const int threads : {2, 5}) {
      const Stored many = EncodeAndOpen(recipe, weights, 200, 300, importance, threads);
      EXPECT_EQ(one.encoded.recipe, many.encoded.recipe);
      EXPECT_EQ(one.encoded.relative_error, many.encoded.relative_error);
      ASSERT_EQ(one.encoded.planes.size(), many.encoded.planes.size());
      for (size_t i = 0; i < one.encoded.planes.size(); ++i) {
        EXPECT_EQ(one.encoded.planes[i].name, many.encoded.planes[i].name);
        EXPECT_EQ(one.encoded.planes[i].bytes, many.encoded.planes[i].bytes) << recipe;
      }
    }
  }
}

}  // namespace
}  // namespace quantloom
