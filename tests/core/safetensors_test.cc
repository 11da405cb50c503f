#include "core/format/safetensors.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/base/float16.h"
#include "core/format/safetensors_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string FileBytes(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &size, 8);
  return file + header + data;
}

class SafetensorsTest : public ::testing::Test {
 protected:
  void WriteText(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name, std::ios::binary) << text;
  }
  testing::TemporaryDirectory temporary_;
  const std::filesystem::path directory_ = temporary_.path();
};

TEST_F(SafetensorsTest, ReadsWhatTheWriterWrote) {
  const auto path = directory_ / "model.safetensors";
  const std::vector<SafetensorsSpec> specs = {{"z.first", DType::kF32, {2, 1}},
                                              {"scalar", DType::kU8, {}},
                                              {"empty", DType::kI32, {0, 5}},
                                              {"a.last", DType::kF16, {3}}};
  const std::vector<float> first = {1.5f, -2.0f};
  const std::vector<uint16_t> last = {FloatToHalf(0.5f), FloatToHalf(-1), FloatToHalf(65504)};
  auto writer = SafetensorsWriter::Create(path, specs, {{"format", "pt"}}).value();
  ASSERT_TRUE(writer->Append({reinterpret_cast<const uint8_t*>(first.data()), 8}).ok());
  const uint8_t scalar = 7;
  ASSERT_TRUE(writer->Append({&scalar, 1}).ok());
  ASSERT_TRUE(writer->Append({reinterpret_cast<const uint8_t*>(last.data()), 6}).ok());
  ASSERT_TRUE(writer->Close().ok());

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->tensors()[0].name, "z.first");
  EXPECT_THAT(file->Find("z.first")->shape, ElementsAre(2, 1));
  EXPECT_THAT(FloatsFromBytes(DType::kF32, file->Find("z.first")->bytes).value(),
              ElementsAre(1.5f, -2.0f));
  EXPECT_EQ(file->Find("scalar")->bytes[0], 7);
  EXPECT_TRUE(file->Find("empty")->bytes.empty());
  EXPECT_THAT(FloatsFromBytes(DType::kF16, file->Find("a.last")->bytes).value(),
              ElementsAre(0.5f, -1.0f, 65504.0f));
  EXPECT_EQ(file->Find("other"), nullptr);
  EXPECT_THAT(file->metadata(), ElementsAre(::testing::Pair("format", "pt")));
  EXPECT_EQ((file->tensors()[0].bytes.data() - file->file()->bytes().data()) % 64, 0);
}

TEST_F(SafetensorsTest, TheWriterRefusesMissingBytesAndRepeatedNames) {
  const std::vector<SafetensorsSpec> specs = {{"a", DType::kU8, {2}}};
  auto writer = SafetensorsWriter::Create(directory_ / "x", specs, {}).value();
  EXPECT_EQ(writer->Close().code(), absl::StatusCode::kFailedPrecondition);
  const std::vector<SafetensorsSpec> twice = {specs[0], specs[0]};
  EXPECT_EQ(SafetensorsWriter::Create(directory_ / "y", twice, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

struct Malformed {
  std::string bytes;
  const char* message;
};

TEST_F(SafetensorsTest, RejectsMalformedFilesNamingTensorAndField) {
  const std::string two = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)";
  const Malformed cases[] = {
      {"", "header size"},
      {"1234567", "header size"},
      {std::string(8, '\xff'), "header size"},
      {FileBytes("{}", "").substr(0, 9), "header"},
      {FileBytes("[]", ""), "header"},
      {FileBytes("{\"a\":", ""), "header"},
      {FileBytes("{}", "x"), "1 bytes after the last tensor"},
      {FileBytes(R"({"__metadata__":3})", ""), "'__metadata__'"},
      {FileBytes(R"({"__metadata__":{"a":1}})", ""), "'__metadata__'"},
      {FileBytes(R"({"a":3})", ""), "tensor 'a': field 'dtype'"},
      {FileBytes(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", "x"),
       "tensor 'a': unsupported dtype 'F8_E4M3'"},
      {FileBytes(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "x"), "'shape'"},
      {FileBytes(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", "x"), "'shape'"},
      {FileBytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", "x"), "'shape'"},
      {FileBytes(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296,3],"data_offsets":[0,0]}})",
                 ""),
       "overflows"},
      {FileBytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "x"), "'data_offsets'"},
      {FileBytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", "x"),
       "'data_offsets'"},
      {FileBytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "x"),
       "'data_offsets'"},
      {FileBytes(two + R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "xyz"),
       "tensor 'b': field 'data_offsets'"},
      {FileBytes(two + R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})", "wxyz"),
       "tensor 'b': field 'data_offsets'"},
  };
  for (const Malformed& bad : cases) {
    const auto file = SafetensorsFile::Parse(AsBytes(bad.bytes));
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << bad.bytes;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(bad.message));
  }
}

TEST_F(SafetensorsTest, ReadsShardsThroughTheirIndex) {
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  WriteText("one.safetensors", FileBytes("{\"a\":" + entry + "}", "1"));
  WriteText("two.safetensors", FileBytes("{\"b\":" + entry + "}", "2"));
  WriteText("model.safetensors.index.json",
            R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto model = SafetensorsDirectory::Open(directory_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->Find("a")->bytes[0], '1');
  EXPECT_EQ(model->Find("b")->bytes[0], '2');
  EXPECT_EQ(model->Find("c"), nullptr);
  EXPECT_EQ(model->FindShard("b"), &model->shards().at("two.safetensors"));
  EXPECT_THAT(model->names(), ElementsAre("a", "b"));
}

TEST_F(SafetensorsTest, ReadsASingleFileWithoutAnIndex) {
  EXPECT_EQ(SafetensorsDirectory::Open(directory_).status().code(), absl::StatusCode::kNotFound);
  WriteText("model.safetensors",
            FileBytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "1"));
  const auto model = SafetensorsDirectory::Open(directory_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->Find("a")->bytes[0], '1');
}

TEST_F(SafetensorsTest, RejectsAnIndexThatIsWrong) {
  WriteText("one.safetensors", FileBytes("{}", ""));
  const std::pair<std::string, std::string> cases[] = {
      {"[]", "index.json"},
      {"{}", "'weight_map'"},
      {R"({"weight_map":{"a":1}})", "'weight_map'"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", "'../one.safetensors' is no file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "'/etc/passwd' is no file name"},
      {R"({"weight_map":{"a":".."}})", "'..' is no file name"},
      {R"({"weight_map":{"a":""}})", "'' is no file name"},
      {R"({"weight_map":{"a":"one.safetensors"}})", "tensor 'a' is not in 'one.safetensors'"},
  };
  for (const auto& [index, message] : cases) {
    WriteText("model.safetensors.index.json", index);
    const auto model = SafetensorsDirectory::Open(directory_);
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << index;
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(message));
  }
}

TEST(FloatsFromBytes, ConvertsHalfTypesAndRefusesIntegers) {
  const std::vector<uint16_t> bits = {0x3FC0, 0xC000};
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(bits.data()), 4);
  EXPECT_THAT(FloatsFromBytes(DType::kBF16, bytes).value(), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(FloatsFromBytes(DType::kF16, bytes).value(), ElementsAre(1.9375f, -2.0f));
  EXPECT_EQ(FloatsFromBytes(DType::kI16, bytes).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantloom
