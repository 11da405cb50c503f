// Recipes: their grammar, canonical spelling, and every option that ICQuant refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/codec/codec.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

TEST(RecipeTest, Parse_ReadsCodecAndOptions) {
  const auto recipe = Recipe::Parse("icquant:outliers=0.05,bits=2");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->codec, "icquant");
  EXPECT_EQ(recipe->options,
            (std::map<std::string, std::string>{{"bits", "2"}, {"outliers", "0.05"}}));
}

TEST(RecipeTest, ToString_SortsKeys) {
  const auto recipe = Recipe::Parse("icquant:outliers=0.05,bits=2");
  ASSERT_TRUE(recipe.ok());
  EXPECT_EQ(recipe->ToString(), "icquant:bits=2,outliers=0.05");
  EXPECT_EQ(Recipe::Parse("icquant")->ToString(), "icquant");
}

struct ErrorCase {
  std::string name;
  std::string recipe;
  std::vector<std::string> message;  // all of these
};

void PrintTo(const ErrorCase& c, std::ostream* os) { *os << c.name; }

class RecipeErrorTest : public ::testing::TestWithParam<ErrorCase> {};

TEST_P(RecipeErrorTest, CreateCodec_NamesWhatIsWrong) {
  const auto codec = CreateCodec(GetParam().recipe);
  ASSERT_FALSE(codec.ok());
  EXPECT_EQ(codec.status().code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& part : GetParam().message) {
    EXPECT_THAT(std::string(codec.status().message()), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Malformed, RecipeErrorTest,
    ::testing::Values(ErrorCase{"Empty", "", {"codec name"}},
                      ErrorCase{"NoCodec", ":bits=2", {"codec name"}},
                      ErrorCase{"UpperCase", "ICQuant:bits=2", {"codec name 'ICQuant'"}},
                      ErrorCase{"NoOptions", "icquant:", {"option ''"}},
                      ErrorCase{"NoEquals", "icquant:bits", {"option 'bits'"}},
                      ErrorCase{"EmptyKey", "icquant:=2", {"key ''"}},
                      ErrorCase{"EmptyValue", "icquant:bits=", {"value ''", "bits"}},
                      ErrorCase{"TrailingComma", "icquant:bits=2,", {"option ''"}},
                      ErrorCase{"Repeated", "icquant:bits=2,bits=3", {"'bits' is given twice"}},
                      ErrorCase{"Space", "icquant:bits= 2", {"value ' 2'"}},
                      ErrorCase{"TwoEquals", "icquant:bits=2=3", {"value '2=3'"}},
                      ErrorCase{"ControlCharacter", "icquant:bits=\n", {"value '\\n'"}},
                      ErrorCase{"NotUtf8", "icquant:bits=\xff", {"value '\\377'"}},
                      ErrorCase{"TooLong", std::string(5000, 'a'), {"5000 bytes"}},
                      ErrorCase{"UnknownCodec", "zip:bits=2", {"unknown codec 'zip'", "icquant"}}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Icquant, RecipeErrorTest,
    ::testing::Values(
        ErrorCase{"UnknownKey", "icquant:bit=2", {"unknown key 'bit'", "bits", "outliers"}},
        ErrorCase{"BitsZero", "icquant:bits=0", {"bits=0", "1, 2, 3, 4, 8"}},
        ErrorCase{"BitsFive", "icquant:bits=5", {"bits=5", "1, 2, 3, 4, 8"}},
        ErrorCase{"BitsNegative", "icquant:bits=-1", {"bits=-1"}},
        ErrorCase{"BitsFraction", "icquant:bits=2.5", {"bits=2.5"}},
        ErrorCase{"BitsHuge", "icquant:bits=99999999999999999999", {"bits="}},
        ErrorCase{"BitsText", "icquant:bits=two", {"bits=two"}},
        ErrorCase{"OutliersNegative", "icquant:outliers=-0.01", {"outliers=-0.01", "0 to 0.25"}},
        ErrorCase{"OutliersLarge", "icquant:outliers=0.26", {"outliers=0.26", "0 to 0.25"}},
        ErrorCase{"OutliersNan", "icquant:outliers=nan", {"outliers=nan"}},
        ErrorCase{"OutliersInf", "icquant:outliers=inf", {"outliers=inf"}},
        ErrorCase{"OutliersText", "icquant:outliers=5%", {"value '5%'"}},
        ErrorCase{"Inner", "icquant:inner=lloyd", {"inner=lloyd", "rtn, kmeans"}},
        ErrorCase{"Codebook", "icquant:codebook=fp8", {"codebook=fp8", "fp16", "tensor"}},
        ErrorCase{"Offset", "icquant:offset=1", {"offset=1", "auto, none, row"}},
        ErrorCase{"IndexBitsOne", "icquant:index_bits=1", {"index_bits=1", "2 to 8"}},
        ErrorCase{"IndexBitsNine", "icquant:index_bits=9", {"index_bits=9", "2 to 8"}},
        ErrorCase{"KmeansEightBits", "icquant:bits=8,inner=kmeans", {"inner=kmeans", "bits=8"}},
        ErrorCase{"KmeansRange", "icquant:codebook=range", {"codebook=range", "inner=kmeans"}},
        ErrorCase{"RtnTensor", "icquant:inner=rtn,codebook=tensor", {"codebook", "inner=rtn"}},
        ErrorCase{"RtnFp16", "icquant:inner=rtn,codebook=fp16", {"codebook", "inner=rtn"}},
        ErrorCase{"EightBitOutliersInt8",
                  "icquant:bits=8,outliers=0.05,codebook=int8",
                  {"codebook=int8", "bits=8"}},
        ErrorCase{"IndexWithoutOutliers", "icquant:outliers=0,index_bits=6", {"index_bits=6"}},
        ErrorCase{"OffsetFp16", "icquant:codebook=fp16,offset=row", {"offset=row"}},
        ErrorCase{"OffsetTensor", "icquant:codebook=tensor,offset=row", {"offset=row"}},
        ErrorCase{
            "OffsetEightBitOutliers", "icquant:bits=8,outliers=0.05,offset=row", {"offset=row"}},
        ErrorCase{"OffsetRtnRange", "icquant:inner=rtn,codebook=range,offset=row", {"offset=row"}}),
    [](const auto& test) { return test.param.name; });

struct CanonicalCase {
  std::string recipe;
  std::string canonical;
};

TEST(IcquantRecipeTest, Recipe_IsCanonicalWithDefaults) {
  const CanonicalCase cases[] = {
      {"icquant",
       "icquant:bits=4,codebook=auto,incoherence=none,index_bits=auto,inner=kmeans,offset=auto,"
       "outliers=0.05,rounding=ldlq"},
      {"icquant:bits=8",
       "icquant:bits=8,codebook=auto,incoherence=none,inner=rtn,offset=auto,outliers=0,rounding="
       "nearest"},
      {"icquant:bits=8,outliers=0.01",
       "icquant:bits=8,codebook=auto,incoherence=none,index_bits=auto,inner=rtn,offset=auto,"
       "outliers=0.01,"
       "rounding=nearest"},
      {"icquant:outliers=5e-2,bits=2,codebook=fp16,index_bits=6",
       "icquant:bits=2,codebook=fp16,incoherence=none,index_bits=6,inner=kmeans,outliers=0.05,"
       "rounding=ldlq"},
      {"icquant:outliers=-0,codebook=tensor,offset=none",
       "icquant:bits=4,codebook=tensor,incoherence=none,inner=kmeans,outliers=0,rounding=ldlq"},
      {"icquant:outliers=0,codebook=fp16,incoherence=input,hadamard=128",
       "icquant:bits=4,codebook=fp16,hadamard=128,incoherence=input,inner=kmeans,outliers=0,"
       "rounding=ldlq"},
      {"icquant:outliers=0.123456789012345",
       "icquant:bits=4,codebook=auto,incoherence=none,index_bits=auto,inner=kmeans,offset=auto,"
       "outliers=0.123456789012345,rounding=ldlq"},
  };
  for (const CanonicalCase& c : cases) {
    const auto codec = CreateCodec(c.recipe);
    ASSERT_TRUE(codec.ok()) << codec.status();
    EXPECT_EQ((*codec)->recipe(), c.canonical);
    const auto again = CreateCodec(c.canonical);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ((*again)->recipe(), c.canonical);
  }
}

TEST(RegistryTest, RegisteredCodecs_DocumentsEveryKeyItAccepts) {
  std::vector<std::string> names;
  for (const CodecInfo& codec : RegisteredCodecs()) {
    names.push_back(codec.name);
    const auto recipe = Recipe::Parse((*CreateCodec(codec.name))->recipe());
    ASSERT_TRUE(recipe.ok());
    ASSERT_EQ(codec.options.size(), recipe->options.size()) << codec.name;
    for (const auto& [key, description] : codec.options) {
      EXPECT_TRUE(recipe->options.contains(key)) << key;
      EXPECT_THAT(description, HasSubstr("default"));
    }
  }
  EXPECT_THAT(names, IsSupersetOf({"icquant", "qtip", "quip"}));
}

}  // namespace
}  // namespace quantloom
