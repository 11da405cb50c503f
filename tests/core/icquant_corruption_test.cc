// Stored planes that contradict their recipe: refused by name, never followed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/core/codec_testing.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kRows = 70;
constexpr uint64_t kCols = 300;

Stored Sample(absl::string_view recipe) {
  return EncodeAndOpen(recipe, GaussianWeights(kRows * kCols, 31), kRows, kCols);
}

Plane& Find(EncodedMatrix& encoded, absl::string_view name) {
  for (Plane& plane : encoded.planes) {
    if (plane.name == name) return plane;
  }
  ADD_FAILURE() << "no plane " << name;
  std::abort();
}

struct CorruptionCase {
  std::string name;
  std::string recipe;
  std::function<void(EncodedMatrix&)> corrupt;
  std::string message;
};

void PrintTo(const CorruptionCase& c, std::ostream* os) { *os << c.name; }

class IcquantCorruptionTest : public ::testing::TestWithParam<CorruptionCase> {};

TEST_P(IcquantCorruptionTest, Open_RejectsNamingThePlane) {
  Stored stored = Sample(GetParam().recipe);
  GetParam().corrupt(stored.encoded);
  const auto matrix = OpenMatrix(stored.encoded.recipe, kRows, kCols, Views(stored.encoded.planes));
  ASSERT_FALSE(matrix.ok());
  EXPECT_EQ(matrix.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(matrix.status().message()), HasSubstr(GetParam().message));
}

constexpr char kInt8[] = "icquant:bits=2,codebook=int8,offset=row,index_bits=6";
constexpr char kFp16[] = "icquant:bits=2,codebook=fp16";
constexpr char kRange[] = "icquant:bits=2,codebook=range,inner=rtn";

INSTANTIATE_TEST_SUITE_P(
    Planes, IcquantCorruptionTest,
    ::testing::Values(
        CorruptionCase{"MissingPlane", kInt8,
                       [](EncodedMatrix& e) { e.planes.erase(e.planes.begin()); },
                       "plane 'codes' is missing"},
        CorruptionCase{"UnknownPlane", kInt8,
                       [](EncodedMatrix& e) {
                         e.planes.push_back({"extra", DType::kU8, {64}, std::vector<uint8_t>(64)});
                       },
                       "'extra'"},
        CorruptionCase{
            "UncalledForPlane", kFp16,
            [](EncodedMatrix& e) {
              e.planes.push_back({"scale", DType::kBF16, {32}, std::vector<uint8_t>(64)});
            },
            "not one that the recipe calls for"},
        CorruptionCase{"PlaneTwice", kInt8,
                       [](EncodedMatrix& e) { e.planes.push_back(e.planes[0]); },
                       "'codes' is there twice"},
        CorruptionCase{"WrongType", kInt8,
                       [](EncodedMatrix& e) { Find(e, "scale").dtype = DType::kF16; },
                       "'scale' has type F16"},
        CorruptionCase{"Truncated", kInt8,
                       [](EncodedMatrix& e) {
                         Plane& codes = Find(e, "codes");
                         codes.bytes.resize(codes.bytes.size() - 64);
                         codes.shape[0] -= 64;
                       },
                       "'codes'"},
        CorruptionCase{"ShapeDisagrees", kInt8,
                       [](EncodedMatrix& e) { ++Find(e, "codes").shape[0]; }, "'codes'"},
        CorruptionCase{"ShapeOfTwoDimensions", kInt8,
                       [](EncodedMatrix& e) { Find(e, "codes").shape.push_back(1); }, "'codes'"},
        CorruptionCase{"PaddingNotZero", kInt8,
                       [](EncodedMatrix& e) { Find(e, "scale").bytes.back() = 1; },
                       "'scale' has padding"},
        CorruptionCase{"ScaleInfinite", kInt8,
                       [](EncodedMatrix& e) {
                         Find(e, "scale").bytes[10] = 0x80;
                         Find(e, "scale").bytes[11] = 0x7F;
                       },
                       "row 5"},
        CorruptionCase{"ScaleNegative", kInt8,
                       [](EncodedMatrix& e) { Find(e, "scale").bytes[11] |= 0x80; }, "row 5"},
        CorruptionCase{"OffsetNan", kInt8,
                       [](EncodedMatrix& e) {
                         Find(e, "offset").bytes[0] = 0xFF;
                         Find(e, "offset").bytes[1] = 0x7F;
                       },
                       "row 0"},
        CorruptionCase{"CentroidMinus128", kInt8,
                       [](EncodedMatrix& e) { Find(e, "codebook").bytes[9] = 0x80; },
                       "'codebook' has the value -128 at 9"},
        CorruptionCase{"CodeMinus128", "icquant:bits=8",
                       [](EncodedMatrix& e) { Find(e, "codes").bytes[9] = 0x80; },
                       "'codes' has the value -128 at 9"},
        CorruptionCase{"CentroidInfinite", kFp16,
                       [](EncodedMatrix& e) {
                         Find(e, "codebook").bytes[6] = 0;
                         Find(e, "codebook").bytes[7] = 0x7C;
                       },
                       "'codebook' has a value that is not finite at 3"},
        CorruptionCase{"RangeNan", kRange,
                       [](EncodedMatrix& e) { Find(e, "range").bytes[3] = 0x7E; }, "'range'"},
        CorruptionCase{"BaseDisagrees", kInt8,
                       [](EncodedMatrix& e) { ++Find(e, "index_base").bytes[4]; },
                       "'index_base' does not agree with index_counts at row 64"},
        CorruptionCase{"CountDisagrees", kInt8,
                       [](EncodedMatrix& e) { Find(e, "index_counts").bytes[3] += 100; },
                       "plane 'index"},
        CorruptionCase{"GapPastLastColumn", kInt8,
                       [](EncodedMatrix& e) {
                         for (uint8_t& byte : Find(e, "index").bytes) byte = 0xFF;
                       },
                       "'index'"},
        CorruptionCase{"TrailingEscape", kInt8,
                       [](EncodedMatrix& e) {
                         Find(e, "index_counts").bytes[0] -= 1;
                         Find(e, "index_counts").bytes[1] += 1;
                         // Whatever symbol now ends the segment, no run of zeros is valid.
                         std::fill_n(Find(e, "index").bytes.begin(), 40, 0);
                       },
                       "'index'"}),
    [](const auto& test) { return test.param.name; });

TEST(IcquantOpenTest, Open_RejectsMoreOutliersThanTheRecipesShare) {
  Stored stored = Sample("icquant:bits=2,codebook=fp16,outliers=0.05,index_bits=6");
  const std::string fewer = "icquant:bits=2,codebook=fp16,index_bits=6,inner=kmeans,outliers=0.04";
  const auto matrix = OpenMatrix(fewer, kRows, kCols, Views(stored.encoded.planes));
  EXPECT_EQ(matrix.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(matrix.status().message()), HasSubstr("15 outliers in row 0"));
}

TEST(IcquantOpenTest, Open_RejectsRecipesThatLeaveChoices) {
  const Stored stored = Sample(kInt8);
  for (const char* recipe :
       {"icquant:bits=2", "icquant:bits=2,codebook=int8,index_bits=6,outliers=0.05",
        "icquant:bits=2,codebook=fp16,outliers=0.05"}) {
    const auto matrix = OpenMatrix(recipe, kRows, kCols, Views(stored.encoded.planes));
    EXPECT_EQ(matrix.status().code(), absl::StatusCode::kInvalidArgument) << recipe;
  }
}

TEST(IcquantOpenTest, Open_RejectsShapes) {
  const Stored stored = Sample(kInt8);
  const std::vector<PlaneView> planes = Views(stored.encoded.planes);
  const std::string& recipe = stored.encoded.recipe;
  for (const uint64_t bad : {uint64_t{0}, uint64_t{1} << 31, ~uint64_t{0}}) {
    EXPECT_EQ(OpenMatrix(recipe, bad, kCols, planes).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(OpenMatrix(recipe, kRows, bad, planes).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(OpenMatrix(recipe, kRows, kCols + 64, planes).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(OpenMatrix(recipe, kRows, 5, planes).status().code(),
            absl::StatusCode::kInvalidArgument);  // 5 % of 5 columns is no outlier
}

// Random damage: an error, or a matrix whose every value is finite. Run under AddressSanitizer.
TEST(IcquantOpenTest, Open_SurvivesRandomMutations) {
  std::mt19937 random(77);
  int refused = 0;
  const char* recipes[] = {kInt8, kFp16, kRange, "icquant:bits=3,codebook=tensor",
                           "icquant:bits=1,codebook=int8,index_bits=2,outliers=0.2"};
  for (const char* recipe : recipes) {
    const Stored stored = Sample(recipe);
    for (int trial = 0; trial < 250; ++trial) {
      std::vector<Plane> planes = stored.encoded.planes;
      const int edits = 1 + static_cast<int>(random() % 4);
      for (int edit = 0; edit < edits; ++edit) {
        Plane& plane = planes[random() % planes.size()];
        switch (random() % 6) {
          case 0:
            plane.bytes.resize(random() % (plane.bytes.size() + 1));
            break;
          case 1:
            plane.bytes.resize(random() % (plane.bytes.size() + 1));
            plane.shape = {plane.bytes.size() / DTypeSize(plane.dtype)};
            break;
          default:
            if (!plane.bytes.empty()) {
              plane.bytes[random() % plane.bytes.size()] ^=
                  static_cast<uint8_t>(1u << random() % 8);
            }
        }
      }
      const auto matrix = OpenMatrix(stored.encoded.recipe, kRows, kCols, Views(planes));
      if (!matrix.ok()) {
        ++refused;
        continue;
      }
      std::vector<float> values(kRows * kCols);
      (*matrix)->DecodeTile(0, kRows, 0, kCols, values.data(), kCols);
      for (const float value : values) ASSERT_TRUE(std::isfinite(value));
    }
  }
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace quantloom
