// Files with seeded damage: reading one ends in an error that names the file, or gives what the
// undamaged file gives. Run under AddressSanitizer, this is also the proof that no damage is read
// out of bounds.
#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "core/format/gguf.h"
#include "core/format/packed_model.h"
#include "core/format/safetensors.h"
#include "core/format/source_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/tiny_gguf.h"
#include "tests/core/tiny_packed_model.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int kMutations = 1000;

struct Mutation {
  std::string text;
  bool truncated = false;
  std::vector<size_t> flipped;  // offsets
};

// A quarter of the mutations truncate; the others flip one to three bits, half of them within the
// first `header` bytes, where the structure is.
Mutation Mutate(const std::string& original, size_t header, std::mt19937& random) {
  Mutation mutation{original, random() % 4 == 0, {}};
  if (mutation.truncated) {
    mutation.text.resize(random() % original.size());
    return mutation;
  }
  const size_t range = random() % 2 == 0 ? header : original.size();
  for (uint32_t i = 0, n = 1 + random() % 3; i < n; ++i) {
    const size_t offset = random() % range;
    mutation.text[offset] = static_cast<char>(mutation.text[offset] ^ (1 << random() % 8));
    mutation.flipped.push_back(offset);
  }
  return mutation;
}

using Values = std::map<std::string, std::vector<float>>;

Values ReadAll(const SourceModel& model) {
  Values values;
  for (const TensorSpec& spec : ModelTensors(model.config())) {
    values[spec.name] = model.ReadFloats(spec.name).value();
  }
  return values;
}

// Bytes compare equal even where damage made a NaN.
std::string AsText(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), 4 * values.size()};
}

// A tensor's bytes in its file.
struct Span {
  std::string tensor;
  size_t begin;
  size_t end;
};

class FormatMutationTest : public ::testing::Test {
 protected:
  void ExpectNamedError(const absl::Status& status) {
    EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(root().string()));
    // Fit for logs and RPC trailers, whatever the damaged name was.
    EXPECT_LT(status.message().size(), 1000u);
    for (char c : status.message()) EXPECT_TRUE(absl::ascii_isprint(c)) << status;
  }

  // GGUF and safetensors have no digests, so damage to a value is that value. Everything else is an
  // error or leaves the values as they were: a bit of a tensor changes that tensor, a bit of the
  // header at most one (its type or its place), a truncation is always refused.
  void ExpectErrorOrSameValues(const fs::path& source, const fs::path& file,
                               const std::vector<Span>& spans, uint32_t seed) {
    const std::string original = ReadTextFile(file);
    const auto undamaged = SourceModel::Open(source).value();
    const Values expected = ReadAll(*undamaged);
    const size_t header = spans[0].begin;
    std::mt19937 random(seed);
    int opened = 0;
    for (int i = 0; i < kMutations; ++i) {
      const Mutation mutation = Mutate(original, header, random);
      WriteTextFile(file, mutation.text);
      const auto model = SourceModel::Open(source);
      if (!model.ok()) {
        ExpectNamedError(model.status());
        continue;
      }
      ++opened;
      EXPECT_FALSE(mutation.truncated);
      // Rows of GGUF's query and key matrices are put in order by head.
      if ((*model)->config().head_dim != undamaged->config().head_dim) continue;
      ExpectDamageStaysWhereItIs(mutation, spans, expected, ReadAll(**model));
    }
    EXPECT_GT(opened, kMutations / 10);
    EXPECT_LT(opened, kMutations * 9 / 10);
  }

  fs::path root() const { return temporary_.path(); }

 private:
  static void ExpectDamageStaysWhereItIs(const Mutation& mutation, const std::vector<Span>& spans,
                                         const Values& expected, const Values& read) {
    ASSERT_EQ(read.size(), expected.size());
    size_t header_bits = mutation.flipped.size();
    std::set<std::string> hit;
    for (size_t offset : mutation.flipped) {
      for (const Span& span : spans) {
        if (offset < span.begin || offset >= span.end) continue;
        hit.insert(span.tensor);
        --header_bits;
      }
    }
    size_t moved = 0;
    for (const auto& [tensor, values] : expected) {
      if (!hit.contains(tensor)) moved += AsText(read.at(tensor)) != AsText(values);
    }
    EXPECT_LE(moved, header_bits);
  }

  testing::TemporaryDirectory temporary_;
};

TEST_F(FormatMutationTest, Gguf) {
  const ModelConfig config = ModelConfig::FromHfJson(kTinyConfig).value();
  GgufBuilder builder = TinyGgufKeys("llama");
  AddTensors(builder, config, /*interleave=*/true);
  const std::string original = builder.Build();
  const fs::path path = root() / "model.gguf";
  WriteTextFile(path, original);
  const auto parsed = GgufFile::Parse(AsBytes(original)).value();
  std::vector<Span> spans;
  for (const TensorSpec& spec : ModelTensors(config)) {
    const auto bytes = parsed.FindTensor(GgufTensorName(spec.name).value())->bytes;
    const size_t begin = bytes.data() - parsed.bytes().data();
    spans.push_back({spec.name, begin, begin + bytes.size()});
  }
  ExpectErrorOrSameValues(path, path, spans, /*seed=*/1);
}

TEST_F(FormatMutationTest, Safetensors) {
  WriteTinyHfModel(root(), kTinyConfig);
  const fs::path path = root() / "model.safetensors";
  const std::string original = ReadTextFile(path);
  const auto parsed = SafetensorsFile::Parse(AsBytes(original)).value();
  std::vector<Span> spans;
  for (const SafetensorsTensor& tensor : parsed.tensors()) {
    const size_t begin = tensor.bytes.data() - AsBytes(original).data();
    spans.push_back({tensor.name, begin, begin + tensor.bytes.size()});
  }
  ExpectErrorOrSameValues(root(), path, spans, /*seed=*/2);
}

std::string DecodeEverything(const PackedModel& model) {
  std::string result = TensorInfoToText(model.manifest().tensors[0]);
  for (const PackedTensorInfo& info : model.manifest().tensors) {
    if (info.recipe == kRawRecipe) {
      const auto raw = model.OpenRaw(info.name).value();
      result.append(raw.bytes.begin(), raw.bytes.end());
      continue;
    }
    const auto matrix = model.OpenMatrix(info.name);
    if (!matrix.ok()) {
      EXPECT_THAT(std::string(matrix.status().message()), HasSubstr("'" + info.name + "'"));
      EXPECT_TRUE(absl::IsDataLoss(matrix.status())) << matrix.status();
      continue;
    }
    std::vector<float> values((*matrix)->rows() * (*matrix)->cols());
    (*matrix)->DecodeTile(0, (*matrix)->rows(), 0, (*matrix)->cols(), values.data(),
                          (*matrix)->cols());
    result += AsText(values);
  }
  return result;
}

// With digests there is no third possibility: an error, or the same values.
TEST_F(FormatMutationTest, PackedModel) {
  const fs::path directory = root() / "model";
  const auto written = WriteTinyPackedModel(directory);
  ASSERT_TRUE(written.ok()) << written.status();
  const std::string expected =
      DecodeEverything(*PackedModel::Open(directory, Verify::kFull).value());
  const auto contents = DirectoryContents(directory);
  std::vector<std::string> names;
  for (const auto& [name, text] : contents) names.push_back(name);
  std::mt19937 random(3);
  int refused = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string& name = names[random() % names.size()];
    const std::string& original = contents.at(name);
    const Mutation mutation = Mutate(original, original.size(), random);
    WriteTextFile(directory / name, mutation.text);
    const auto full = PackedModel::Open(directory, Verify::kFull);
    if (full.ok()) {
      EXPECT_EQ(DecodeEverything(**full), expected) << name;
    } else {
      ++refused;
      ExpectNamedError(full.status());
    }
    // Without comparing every digest damage may go unnoticed, but never out of bounds.
    const auto header = PackedModel::Open(directory, Verify::kHeader);
    if (header.ok()) {
      DecodeEverything(**header);
    } else {
      ExpectNamedError(header.status());
    }
    WriteTextFile(directory / name, original);
  }
  EXPECT_GT(refused, kMutations * 9 / 10);
}

}  // namespace
}  // namespace quantloom
