#include "core/format/gguf.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "core/base/float16.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/gguf_builder.h"

namespace quantloom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Gguf, ReadsMetadataOfEveryType) {
  const std::string bytes = GgufBuilder()
                                .Key("u8", GgufBuilder::kU8, uint8_t{200})
                                .Key("i8", GgufBuilder::kI8, int8_t{-5})
                                .Key("u16", GgufBuilder::kU16, uint16_t{60000})
                                .Key("i16", GgufBuilder::kI16, int16_t{-300})
                                .Key("u32", GgufBuilder::kU32, uint32_t{4000000000})
                                .Key("i32", GgufBuilder::kI32, int32_t{-70000})
                                .Key("f32", GgufBuilder::kF32, 1.5f)
                                .Key("bool", GgufBuilder::kBool, true)
                                .Key("u64", GgufBuilder::kU64, uint64_t{1} << 63)
                                .Key("i64", GgufBuilder::kI64, int64_t{-1} << 40)
                                .Key("f64", GgufBuilder::kF64, 0.1)
                                .String("string", "text")
                                .Strings("strings", {"a", "", "ccc"})
                                .Array<int32_t>("ints", GgufBuilder::kI32, {1, -2, 3})
                                .Array<float>("floats", GgufBuilder::kF32, {0.5f, -1.0f})
                                .Build();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Unsigned("u8").value(), 200u);
  EXPECT_EQ(file->Number("i8").value(), -5.0);
  EXPECT_EQ(file->Unsigned("u16").value(), 60000u);
  EXPECT_EQ(file->Number("i16").value(), -300.0);
  EXPECT_EQ(file->Unsigned("u32").value(), 4000000000u);
  EXPECT_EQ(file->Number("i32").value(), -70000.0);
  EXPECT_EQ(file->Number("f32").value(), 1.5);
  EXPECT_EQ(file->Bool("bool").value(), true);
  EXPECT_EQ(file->Unsigned("u64").value(), uint64_t{1} << 63);
  EXPECT_EQ(file->Number("i64").value(), -0x1p40);
  EXPECT_EQ(file->Number("f64").value(), 0.1);
  EXPECT_EQ(file->String("string").value(), "text");
  EXPECT_THAT(file->Strings("strings").value(), ElementsAre("a", "", "ccc"));
  EXPECT_THAT(file->Integers("ints").value(), ElementsAre(1, -2, 3));
  EXPECT_THAT(file->Numbers("floats").value(), ElementsAre(0.5, -1.0));
  EXPECT_EQ(file->ArraySize("strings").value(), 3u);
}

TEST(Gguf, AccessorsNameTheKeyThatIsMissingOrOfAnotherType) {
  const std::string bytes = GgufBuilder()
                                .Key("negative", GgufBuilder::kI32, int32_t{-1})
                                .F32("fraction", 0.5f)
                                .String("string", "x")
                                .Strings("strings", {"a"})
                                .Build();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->String("absent").status().code(), absl::StatusCode::kNotFound);
  for (const absl::Status& status :
       {file->Unsigned("negative").status(), file->Unsigned("fraction").status(),
        file->Unsigned("string").status(), file->String("strings").status(),
        file->Bool("string").status(), file->Strings("string").status(),
        file->Integers("strings").status(), file->ArraySize("string").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("key '"));
  }
}

TEST(Gguf, ReadsTensorsOfBothVersionsRowMajor) {
  for (uint32_t version : {2, 3}) {
    GgufBuilder builder;
    builder.version = version;
    builder.FloatTensor("a", {2, 3}, {1, 2, 3, 4, 5, 6}).FloatTensor("b", {1}, {7});
    const std::string bytes = builder.Build();
    const auto file = GgufFile::Parse(AsBytes(bytes));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_THAT(file->FindTensor("a")->shape, ElementsAre(2, 3));
    EXPECT_THAT(file->ReadFloats("a").value(), ElementsAre(1, 2, 3, 4, 5, 6));
    EXPECT_THAT(file->ReadFloats("b").value(), ElementsAre(7));
    EXPECT_EQ(file->ReadFloats("c").status().code(), absl::StatusCode::kNotFound);
  }
}

TEST(Gguf, HonoursTheAlignmentKey) {
  GgufBuilder builder;
  builder.alignment = 256;
  builder.U32("general.alignment", 256).FloatTensor("a", {1}, {1}).FloatTensor("b", {1}, {2});
  const std::string bytes = builder.Build();
  const auto file = GgufFile::Parse(AsBytes(bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->FindTensor("b")->bytes.data() - file->bytes().data(), 512);
  EXPECT_THAT(file->ReadFloats("b").value(), ElementsAre(2));
}

struct Malformed {
  std::string bytes;
  const char* message;
};

TEST(Gguf, RejectsMalformedFilesNamingWhatIsWrong) {
  GgufBuilder big_endian;
  big_endian.version = 0x03000000;
  GgufBuilder version_one;
  version_one.version = 1;
  std::string many_keys = GgufBuilder().Build();
  many_keys.replace(16, 8, std::string(8, '\x7f'));
  std::string many_tensors = GgufBuilder().Build();
  many_tensors.replace(8, 8, std::string(8, '\x7f'));
  const std::string long_key(1 << 20, 'a');
  const std::string q6_k(210, '\0');
  const Malformed cases[] = {
      {"", "magic"},
      {"GGML1234", "magic"},
      {big_endian.Build(), "big-endian"},
      {version_one.Build(), "version 1"},
      {many_keys, "key count"},
      {many_tensors, "tensor count"},
      {GgufBuilder().U32("k", 1).U32("k", 2).Build(), "'k' appears twice"},
      {GgufBuilder().U32("", 1).Build(), "key 0 is empty"},
      {GgufBuilder().U32("\xff\n", 1).U32("\xff\n", 2).Build(), "key '\\xff\\n' appears twice"},
      {GgufBuilder().U32(long_key, 1).U32(long_key, 2).Build(), "aaa...' appears twice"},
      {GgufBuilder().Key("k", static_cast<GgufBuilder::Type>(13), 0).Build(), "value type 13"},
      {GgufBuilder().Array<uint32_t>("k", GgufBuilder::kArray, {4}).Build(), "arrays of arrays"},
      {GgufBuilder().U32("general.alignment", 48).Build(), "'general.alignment'"},
      {GgufBuilder().Tensor("t", {0}, 0, "").Build(), "'t'"},
      {GgufBuilder().Tensor("t", {}, 0, "").Build(), "'t'"},
      {GgufBuilder().Tensor("t", {1, 1, 1, 1, 1}, 0, "1234").Build(), "5 dimensions"},
      {GgufBuilder().Tensor("t", {uint64_t{1} << 62, uint64_t{1} << 62}, 0, "1234").Build(), "'t'"},
      {GgufBuilder().Tensor("t", {16}, 2, std::string(18, '\0')).Build(), "whole blocks of Q4_0"},
      {GgufBuilder().Tensor("t", {256}, 14, q6_k).Build(), "unsupported type Q6_K"},
      {GgufBuilder().Tensor("t", {256}, 999, q6_k).Build(), "unknown type 999"},
      {GgufBuilder().Tensor("t", {2}, 0, "1234").Build(), "beyond the end"},
      {GgufBuilder().FloatTensor("t", {1}, {1}).FloatTensor("t", {1}, {2}).Build(),
       "appears twice"},
      // `u` begins 32 bytes after `t`, whose nine values take 36.
      {GgufBuilder().Tensor("t", {9}, 0, "1234").FloatTensor("u", {1}, {1}).Build(), "overlap"},
  };
  for (const Malformed& bad : cases) {
    const auto file = GgufFile::Parse(AsBytes(bad.bytes));
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << bad.message;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(bad.message));
  }
}

TEST(Gguf, ErrorsNameTheFile) {
  const absl::Status missing = GgufFile::Open("/no/such/model.gguf").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("/no/such/model.gguf"));
  const absl::Status empty = GgufFile::Open("/dev/null").status();
  EXPECT_EQ(empty.code(), absl::StatusCode::kInvalidArgument);
}

std::string Bytes(const std::vector<int>& values) { return {values.begin(), values.end()}; }

std::vector<float> Dequantize(GgmlType type, const std::string& block) {
  std::vector<float> values(32);
  DequantizeGgml(type, AsBytes(block), absl::MakeSpan(values));
  return values;
}

// One block of each type, its values worked out by hand from the layout; tests/oracle compares
// random blocks with the gguf package.
TEST(GgmlType, BlocksHaveTheirDocumentedValues) {
  std::string scale;
  GgufBuilder::Put(scale, FloatToHalf(0.5f));
  std::string minimum;
  GgufBuilder::Put(minimum, FloatToHalf(-3.0f));
  std::string nibbles(16, '\0');
  nibbles[0] = '\x9F';  // value 0: 15, value 16: 9
  std::string fifth;
  GgufBuilder::Put(fifth, uint32_t{1} | uint32_t{1} << 31);

  std::vector<float> values = Dequantize(GgmlType::kQ4_0, scale + nibbles);
  EXPECT_THAT((std::vector<float>{values[0], values[1], values[16]}), ElementsAre(3.5, -4, 0.5));
  values = Dequantize(GgmlType::kQ4_1, scale + minimum + nibbles);
  EXPECT_THAT((std::vector<float>{values[0], values[1], values[16]}), ElementsAre(4.5, -3, 1.5));
  values = Dequantize(GgmlType::kQ5_0, scale + fifth + nibbles);
  EXPECT_THAT((std::vector<float>{values[0], values[1], values[16], values[31]}),
              ElementsAre(7.5, -8, -3.5, 0));
  values = Dequantize(GgmlType::kQ5_1, scale + minimum + fifth + nibbles);
  EXPECT_THAT((std::vector<float>{values[0], values[1], values[16], values[31]}),
              ElementsAre(12.5, -3, 1.5, 5));
  values = Dequantize(GgmlType::kQ8_0, scale + Bytes({-128, 127}) + std::string(30, '\0'));
  EXPECT_THAT((std::vector<float>{values[0], values[1], values[2]}), ElementsAre(-64, 63.5, 0));
}

TEST(GgmlType, UnsupportedTypesAreNamed) {
  EXPECT_THAT(std::string(FindGgmlType(12).status().message()), HasSubstr("Q4_K"));
  EXPECT_THAT(std::string(FindGgmlType(4).status().message()), HasSubstr("4"));
}

TEST(Gguf, ReadsTheDemonstrationModel) {
  const char* path = std::getenv("QUANTLOOM_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "QUANTLOOM_TEST_MODEL names no SmolLM2 GGUF file";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->String("general.architecture").value(), "llama");
  EXPECT_EQ(file->ArraySize("tokenizer.ggml.tokens").value(), 49152u);
  uint64_t parameters = 0;
  for (const GgufTensor& tensor : file->tensors()) parameters += tensor.size();
  EXPECT_EQ(parameters, 134515008u);
}

}  // namespace
}  // namespace quantloom
