#include "core/format/packed_model.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/base/sha256.h"
#include "core/format/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/tiny_packed_model.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class PackedModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = root_ / "model";
    config_ = ModelConfig::FromHfJson(kTinyConfig).value();
  }

  // Writes the tiny model once; `model_` is then a copy of it.
  void WriteModel() {
    const auto manifest = WriteTinyPackedModel(model_);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
  }

  // Changes the manifest's JSON and gives it a valid seal again.
  void EditManifest(const std::function<void(ordered_json&)>& edit) {
    ordered_json root = ordered_json::parse(ReadTextFile(model_ / kManifestFile));
    root.erase("sha256");
    edit(root);
    WriteTextFile(model_ / kManifestFile, SealManifest(root.dump(2)));
  }

  void ExpectFailure(absl::StatusCode code, const std::string& message,
                     Verify verify = Verify::kHeader) {
    const absl::Status status = PackedModel::Open(model_, verify).status();
    EXPECT_EQ(status.code(), code) << status << " expected " << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  testing::TemporaryDirectory temporary_;
  const fs::path root_ = temporary_.path();
  fs::path model_;
  ModelConfig config_;
};

std::vector<float> DecodeAll(const PackedMatrix& matrix) {
  std::vector<float> values(matrix.rows() * matrix.cols());
  matrix.DecodeTile(0, matrix.rows(), 0, matrix.cols(), values.data(), matrix.cols());
  return values;
}

TEST_F(PackedModelTest, ReadsBackWhatWasAdded) {
  WriteModel();
  for (Verify verify : {Verify::kHeader, Verify::kFull}) {
    const auto model = PackedModel::Open(model_, verify);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->config().hidden_size, 48u);
    EXPECT_EQ((*model)->manifest().recipe, kTinyRecipe);
    EXPECT_EQ((*model)->manifest().seed, 7u);
    ThreadTeam team(1);
    const auto codec = CreateCodec(kTinyRecipe).value();
    const auto tensors = TinyTensors(config_);
    for (const TensorSpec& spec : ModelTensors(config_)) {
      const std::vector<float>& values = tensors.at(spec.name);
      if (spec.role == TensorSpec::Role::kLinear) {
        const std::vector<float> importance = TinyImportance(spec.shape[1]);
        const auto encoded = codec->Encode({.weights = values,
                                            .rows = spec.shape[0],
                                            .cols = spec.shape[1],
                                            .importance = importance},
                                           team);
        std::vector<PlaneView> planes;
        for (const Plane& plane : encoded->planes) planes.push_back(plane.view());
        const auto direct =
            OpenMatrix(encoded->recipe, spec.shape[0], spec.shape[1], planes).value();
        const auto matrix = (*model)->OpenMatrix(spec.name);
        ASSERT_TRUE(matrix.ok()) << matrix.status();
        EXPECT_EQ(DecodeAll(**matrix), DecodeAll(*direct)) << spec.name;
        EXPECT_EQ((*model)->FindTensor(spec.name)->relative_error, encoded->relative_error);
      } else if (spec.role == TensorSpec::Role::kNorm) {
        const auto raw = (*model)->OpenRaw(spec.name);
        ASSERT_TRUE(raw.ok()) << raw.status();
        EXPECT_EQ(raw->dtype, DType::kBF16);
        const auto read = FloatsFromBytes(raw->dtype, raw->bytes).value();
        for (size_t i = 0; i < values.size(); ++i) {
          EXPECT_NEAR(read[i], values[i], std::abs(values[i]) / 256);
        }
      }
    }
    (*model)->ReleasePages("model.embed_tokens.weight");
    EXPECT_TRUE((*model)->OpenMatrix("model.embed_tokens.weight").ok());
    EXPECT_EQ((*model)->OpenMatrix("model.norm.weight").status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*model)->OpenRaw("model.embed_tokens.weight").status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ((*model)->OpenRaw("other").status().code(), absl::StatusCode::kNotFound);
  }
}

TEST_F(PackedModelTest, TheDirectoryHoldsTheDocumentedFiles) {
  WriteModel();
  std::vector<std::string> names;
  for (const auto& [name, text] : DirectoryContents(model_)) names.push_back(name);
  EXPECT_THAT(names, UnorderedElementsAre("config.json", "tokenizer.json", "tokenizer_config.json",
                                          "model-00001-of-00001.safetensors",
                                          "model.safetensors.index.json", "quantloom.json"));
  const auto config = nlohmann::json::parse(ReadTextFile(model_ / "config.json"));
  EXPECT_EQ(config["quantization_config"]["quant_method"], "quantloom");
  EXPECT_EQ(config["quantization_config"]["recipe"], kTinyRecipe);
}

// The figures in the manifest against the files themselves.
TEST_F(PackedModelTest, BitsPerWeightCountEveryByteOfTheDataSection) {
  WriteModel();
  const auto model = PackedModel::Open(model_, Verify::kFull).value();
  const auto shard = SafetensorsFile::Open(model_ / "model-00001-of-00001.safetensors").value();
  uint64_t data_bytes = 0;
  for (const SafetensorsTensor& tensor : shard.tensors()) {
    data_bytes += tensor.bytes.size();
    if (absl::EndsWith(tensor.name, ".__pad")) {
      for (uint8_t byte : tensor.bytes) EXPECT_EQ(byte, 0);
    } else {
      EXPECT_EQ((tensor.bytes.data() - shard.file()->bytes().data()) % 64, 0) << tensor.name;
    }
  }
  uint64_t weights = 0;
  double bits = 0;
  for (const PackedTensorInfo& info : model->manifest().tensors) {
    weights += ShapeSize(info.shape);
    bits += info.bits.total() * static_cast<double>(ShapeSize(info.shape));
    EXPECT_NEAR(info.bits.total(), info.bits_per_weight, 1e-6) << info.name;
  }
  EXPECT_EQ(model->manifest().packed_bytes, data_bytes);
  EXPECT_NEAR(bits, 8.0 * static_cast<double>(data_bytes), 1e-3);
  EXPECT_NEAR(model->manifest().bits_per_weight,
              8.0 * static_cast<double>(data_bytes) / static_cast<double>(weights), 1e-12);
}

TEST_F(PackedModelTest, BytesDoNotDependOnInterruptionsNorOnTheOrderOfTensors) {
  WriteModel();
  const fs::path interrupted = root_ / "interrupted";
  std::vector<TensorSpec> specs = ModelTensors(config_);
  std::reverse(specs.begin(), specs.end());
  const auto tensors = TinyTensors(config_);
  for (const TensorSpec& spec : specs) {
    auto writer = PackedModelWriter::Open(interrupted, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(AddTinyTensor(**writer, spec, tensors.at(spec.name)).ok());
    EXPECT_NE((*writer)->FindTensor(spec.name), nullptr);
    // What a crash in the middle of a tensor leaves.
    WriteTextFile(interrupted / ".tensors" / "lm_head.weight.safetensors.tmp", "half a tensor");
  }
  ASSERT_TRUE(WriteTinyPackedModel(interrupted).ok());
  EXPECT_EQ(DirectoryContents(model_), DirectoryContents(interrupted));
}

TEST_F(PackedModelTest, AStagedTensorThatIsDamagedIsWrittenAgain) {
  WriteModel();
  const fs::path damaged = root_ / "damaged";
  const auto tensors = TinyTensors(config_);
  const std::vector<TensorSpec> specs = ModelTensors(config_);
  {
    auto writer = PackedModelWriter::Open(damaged, {}).value();
    for (size_t i = 0; i < 6; ++i) {
      ASSERT_TRUE(AddTinyTensor(*writer, specs[i], tensors.at(specs[i].name)).ok());
    }
  }
  const auto staged = [&](size_t i) {
    return damaged / ".tensors" / (specs[i].name + ".safetensors");
  };
  std::string text = ReadTextFile(staged(0));
  text.back() ^= 1;
  WriteTextFile(staged(0), text);
  fs::resize_file(staged(1), fs::file_size(staged(1)) - 1);
  text = ReadTextFile(staged(2));
  const size_t error = text.find("relative_error");
  ASSERT_NE(error, std::string::npos);
  text[error] = 'R';
  WriteTextFile(staged(2), text);
  fs::rename(staged(3), staged(7));
  WriteTextFile(staged(4), "");
  {
    auto writer = PackedModelWriter::Open(damaged, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (size_t i = 0; i < specs.size(); ++i) {
      EXPECT_EQ((*writer)->FindTensor(specs[i].name) != nullptr, i == 5) << i;
    }
    EXPECT_EQ((*writer)->finished(), nullptr);
  }
  ASSERT_TRUE(WriteTinyPackedModel(damaged).ok());
  EXPECT_EQ(DirectoryContents(model_), DirectoryContents(damaged));
}

TEST_F(PackedModelTest, AFinishedDirectoryIsFoundAgain) {
  WriteModel();
  const auto before = DirectoryContents(model_);
  auto writer = PackedModelWriter::Open(model_, {}).value();
  for (const TensorSpec& spec : ModelTensors(config_)) {
    EXPECT_NE(writer->FindTensor(spec.name), nullptr) << spec.name;
  }
  ASSERT_NE(writer->finished(), nullptr);
  EXPECT_EQ(writer->finished()->tensors.size(), ModelTensors(config_).size());
  EXPECT_EQ(writer->AddRaw("model.norm.weight", {{48}}, DType::kF32, std::vector<float>(48)).code(),
            absl::StatusCode::kFailedPrecondition);
  const auto manifest = writer->Finish(config_, TinyTokenizerFiles(), TinyManifestHeader());
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->tensors.size(), ModelTensors(config_).size());
  EXPECT_EQ(DirectoryContents(model_), before);
  PackedManifest other = TinyManifestHeader();
  other.seed = 8;
  EXPECT_EQ(writer->Finish(config_, TinyTokenizerFiles(), other).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(PackedModelTest, AFinishThatWasCutShortIsDoneAgain) {
  WriteModel();
  const auto expected = DirectoryContents(model_);
  const fs::path cut = root_ / "cut";
  {
    auto writer = PackedModelWriter::Open(cut, {}).value();
    const auto tensors = TinyTensors(config_);
    for (const TensorSpec& spec : ModelTensors(config_)) {
      ASSERT_TRUE(AddTinyTensor(*writer, spec, tensors.at(spec.name)).ok());
    }
  }
  // A crash after the shard was begun, with a manifest of another run beside it.
  WriteTextFile(cut / "model-00001-of-00001.safetensors", "half a shard");
  WriteTextFile(cut / kManifestFile, "{}");
  ASSERT_TRUE(WriteTinyPackedModel(cut).ok());
  EXPECT_EQ(DirectoryContents(cut), expected);
}

TEST_F(PackedModelTest, ShardsAreFilledInForwardOrderUpToTheirLimit) {
  const auto manifest = WriteTinyPackedModel(model_, {.max_shard_bytes = 2500});
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  std::vector<std::string> shards;
  for (const auto& [name, text] : DirectoryContents(model_)) {
    if (absl::EndsWith(name, ".safetensors")) shards.push_back(name);
  }
  ASSERT_GT(shards.size(), 2u);
  const std::string count = std::to_string(100000 + shards.size()).substr(1);
  std::vector<std::string> order;
  for (size_t i = 0; i < shards.size(); ++i) {
    EXPECT_EQ(shards[i],
              "model-" + std::to_string(100001 + i).substr(1) + "-of-" + count + ".safetensors");
    const auto file = SafetensorsFile::Open(model_ / shards[i]).value();
    uint64_t size = 0;
    for (const SafetensorsTensor& tensor : file.tensors()) {
      size += tensor.bytes.size();
      for (const TensorSpec& spec : ModelTensors(config_)) {
        const bool first = tensor.name == spec.name || tensor.name == spec.name + ".codes";
        if (first) order.push_back(spec.name);
      }
    }
    EXPECT_LE(size, 2500u);
  }
  std::vector<std::string> expected;
  for (const TensorSpec& spec : ModelTensors(config_)) expected.push_back(spec.name);
  EXPECT_EQ(order, expected);
  EXPECT_TRUE(PackedModel::Open(model_, Verify::kFull).ok());
}

TEST_F(PackedModelTest, TheWriterRefusesWhatIsIncompleteOrWrong) {
  auto writer = PackedModelWriter::Open(model_, {}).value();
  const auto tensors = TinyTensors(config_);
  const std::vector<TensorSpec> specs = ModelTensors(config_);
  auto finish = [&] {
    return writer->Finish(config_, TinyTokenizerFiles(), TinyManifestHeader()).status();
  };
  for (size_t i = 1; i < specs.size(); ++i) {
    ASSERT_TRUE(AddTinyTensor(*writer, specs[i], tensors.at(specs[i].name)).ok());
  }
  EXPECT_EQ(finish().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(finish().message()), HasSubstr(specs[0].name));
  ASSERT_TRUE(AddTinyTensor(*writer, specs[0], tensors.at(specs[0].name)).ok());
  ASSERT_TRUE(writer->AddRaw("extra", {{1}}, DType::kF32, {1.0f}).ok());
  EXPECT_EQ(finish().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(finish().message()), HasSubstr("'extra'"));

  const float inf = std::numeric_limits<float>::infinity();
  const std::pair<DType, std::vector<float>> bad_values[] = {
      {DType::kF32, {1, inf}},   {DType::kF32, {std::nanf(""), 1}},
      {DType::kF16, {70000, 1}}, {DType::kU8, {1, 1}},
      {DType::kF32, {1}},
  };
  for (const auto& [dtype, values] : bad_values) {
    const absl::Status status = writer->AddRaw("bad", {{2}}, dtype, values);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'bad'"));
  }
  for (const char* name : {"", "../escape", "a/b", ".hidden"}) {
    EXPECT_EQ(writer->AddRaw(name, {{1}}, DType::kF32, {1.0f}).code(),
              absl::StatusCode::kInvalidArgument);
  }
  EncodedMatrix encoded;
  encoded.recipe = "icquant:bits=2";
  EXPECT_FALSE(writer->AddEncoded("bad", 2, 2, encoded, "").ok());
  EXPECT_EQ(writer->FindTensor("bad"), nullptr);
}

TEST_F(PackedModelTest, TokenizerFilesCannotReplaceTheModelsOwn) {
  for (const char* name : {"config.json", "quantloom.json", "../x", "model-00001.safetensors"}) {
    const fs::path staging = root_ / "staging";
    auto writer = PackedModelWriter::Open(staging, {}).value();
    const auto tensors = TinyTensors(config_);
    for (const TensorSpec& spec : ModelTensors(config_)) {
      if (writer->FindTensor(spec.name) != nullptr) continue;
      ASSERT_TRUE(AddTinyTensor(*writer, spec, tensors.at(spec.name)).ok());
    }
    EXPECT_EQ(writer->Finish(config_, {{name, "x"}}, TinyManifestHeader()).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(fs::exists(staging / kManifestFile));
  }
}

// A limit on the size of files stands for a full disk: writes end part-way with an error.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    previous_handler_ = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &previous_);
    rlimit limit = previous_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &previous_);
    signal(SIGXFSZ, previous_handler_);
  }

 private:
  rlimit previous_;
  void (*previous_handler_)(int);
};

TEST_F(PackedModelTest, AFullDiskIsReportedAndTheJobResumesToTheSameBytes) {
  WriteModel();
  const auto expected = DirectoryContents(model_);
  int refused = 0;
  for (rlim_t bytes : {0, 100, 900, 1500, 2500, 5000, 9000, 20000}) {
    const fs::path full = root_ / "full";
    {
      FileSizeLimit limit(bytes);
      const auto manifest = WriteTinyPackedModel(full);
      if (!manifest.ok()) {
        ++refused;
        EXPECT_EQ(manifest.status().code(), absl::StatusCode::kResourceExhausted)
            << manifest.status();
      }
    }
    EXPECT_EQ(PackedModel::Open(full, Verify::kFull).ok(), fs::exists(full / kManifestFile));
    ASSERT_TRUE(WriteTinyPackedModel(full).ok());
    EXPECT_EQ(DirectoryContents(full), expected) << bytes;
    fs::remove_all(full);
  }
  EXPECT_GE(refused, 5);
}

TEST_F(PackedModelTest, RejectsWhatIsNoPackedModel) {
  ExpectFailure(absl::StatusCode::kNotFound, model_.string());
  fs::create_directories(model_);
  ExpectFailure(absl::StatusCode::kInvalidArgument, "not a packed model");
  WriteTextFile(model_ / kManifestFile, "{}");
  ExpectFailure(absl::StatusCode::kInvalidArgument, "'format'");
  fs::remove_all(model_);
  WriteModel();
  EditManifest([](ordered_json& root) { root["format_version"] = 2; });
  ExpectFailure(absl::StatusCode::kInvalidArgument, "'format_version' is 2");
}

TEST_F(PackedModelTest, AnUnsupportedArchitectureIsNamed) {
  WriteModel();
  std::string config = ReadTextFile(model_ / "config.json");
  config.replace(config.find("LlamaForCausalLM"), 16, "OtherForCausalLM");
  WriteTextFile(model_ / "config.json", config);
  ExpectFailure(absl::StatusCode::kDataLoss, "config.json");
  EditManifest([&](ordered_json& root) {
    root["files"]["config.json"]["sha256"] =
        Sha256::Of({reinterpret_cast<const uint8_t*>(config.data()), config.size()});
  });
  ExpectFailure(absl::StatusCode::kInvalidArgument, "OtherForCausalLM");
}

TEST_F(PackedModelTest, DamageIsDataLossNamingFileAndTensor) {
  WriteModel();
  const fs::path shard = model_ / "model-00001-of-00001.safetensors";
  const std::string bytes = ReadTextFile(shard);
  WriteTextFile(shard, bytes.substr(0, bytes.size() - 1));
  ExpectFailure(absl::StatusCode::kDataLoss, "model-00001-of-00001.safetensors");
  fs::remove(shard);
  ExpectFailure(absl::StatusCode::kDataLoss, "model-00001-of-00001.safetensors");

  std::string flipped = bytes;
  const auto file =
      SafetensorsFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()})
          .value();
  const SafetensorsTensor* norm = file.Find("model.norm.weight");
  flipped[norm->bytes.data() - reinterpret_cast<const uint8_t*>(bytes.data())] ^= 4;
  WriteTextFile(shard, flipped);
  ExpectFailure(absl::StatusCode::kDataLoss, "tensor 'model.norm.weight'", Verify::kFull);
  EXPECT_TRUE(PackedModel::Open(model_, Verify::kHeader).ok());
  WriteTextFile(shard, bytes);

  WriteTextFile(model_ / "tokenizer.json", "{\"version\": \"2.0\"}\n");
  ExpectFailure(absl::StatusCode::kDataLoss, "tokenizer.json");
  WriteTextFile(model_ / "tokenizer.json", "");
  ExpectFailure(absl::StatusCode::kDataLoss, "tokenizer.json");
  fs::remove(model_ / "tokenizer.json");
  ExpectFailure(absl::StatusCode::kDataLoss, "tokenizer.json");
  WriteTextFile(model_ / "tokenizer.json", TinyTokenizerFiles()["tokenizer.json"]);
  EXPECT_TRUE(PackedModel::Open(model_, Verify::kFull).ok());

  std::string manifest = ReadTextFile(model_ / kManifestFile);
  manifest[manifest.find("relative_error")] = 'X';
  WriteTextFile(model_ / kManifestFile, manifest);
  ExpectFailure(absl::StatusCode::kDataLoss, "'sha256'");
}

struct Contradiction {
  std::function<void(ordered_json&)> edit;
  const char* message;
};

TEST_F(PackedModelTest, AManifestThatContradictsTheFilesIsDataLoss) {
  WriteModel();
  const std::string original = ReadTextFile(model_ / kManifestFile);
  const Contradiction cases[] = {
      {[](ordered_json& m) { m["tensors"].erase(3); }, "'tensors', entry 3"},
      {[](ordered_json& m) { std::swap(m["tensors"][1], m["tensors"][4]); }, "entry 1"},
      {[](ordered_json& m) { m["tensors"].push_back(m["tensors"][0]); }, "appears twice"},
      {[](ordered_json& m) {
         m["tensors"][2]["shape"] = {32, 33};
       },
       "'shape'"},
      {[](ordered_json& m) {
         m["tensors"][2]["shape"] = {0, 32};
       },
       "extent of 0"},
      {[](ordered_json& m) {
         m["tensors"][2]["shape"] = {1ull << 40, 1ull << 40};
       },
       "too large"},
      {[](ordered_json& m) { m["tensors"][2]["recipe"] = "raw"; }, "'planes'"},
      {[](ordered_json& m) { m["tensors"][1]["recipe"] = "icquant:bits=2"; }, "'planes'"},
      {[](ordered_json& m) { m["tensors"][2]["planes"].clear(); }, "'planes'"},
      {[](ordered_json& m) { m["tensors"][2]["planes"].erase(0); }, "'bits_per_weight'"},
      {[](ordered_json& m) { m["tensors"][2]["planes"][0]["name"] = "other"; }, "'other'"},
      {[](ordered_json& m) { m["tensors"][2]["planes"][0]["bytes"] = 1; }, "'bytes'"},
      {[](ordered_json& m) { m["tensors"][1]["planes"][0]["dtype"] = "F16"; }, "dtype or shape"},
      {[](ordered_json& m) { m["tensors"][1]["planes"][0]["dtype"] = "F12"; }, "'F12'"},
      {[](ordered_json& m) { m["tensors"][1]["planes"][0]["sha256"] = "zz"; }, "'sha256'"},
      {[](ordered_json& m) { m["tensors"][1]["bits_per_weight"] = 15.0; }, "'bits_per_weight'"},
      {[](ordered_json& m) { m["tensors"][1]["bits"]["index"] = 1.0; }, "'bits'"},
      {[](ordered_json& m) { m["tensors"][1]["bits"]["index"] = -1.0; }, "'index'"},
      {[](ordered_json& m) { m["tensors"][1]["name"] = ""; }, "'name'"},
      {[](ordered_json& m) { m["packed_bytes"] = 1; }, "'packed_bytes'"},
      {[](ordered_json& m) { m["seed"] = -1; }, "'seed'"},
      {[](ordered_json& m) { m["files"].erase("config.json"); }, "'config.json'"},
      {[](ordered_json& m) { m["files"]["../config.json"] = m["files"]["config.json"]; },
       "no file name"},
      {[](ordered_json& m) { m["files"]["tokenizer.json"]["bytes"] = 3; }, "tokenizer.json"},
      {[](ordered_json& m) { m["tensors"] = 1; }, "'tensors'"},
      {[](ordered_json& m) { m.erase("recipe"); }, "'recipe'"},
  };
  for (const Contradiction& bad : cases) {
    WriteTextFile(model_ / kManifestFile, original);
    EditManifest(bad.edit);
    ExpectFailure(absl::StatusCode::kDataLoss, bad.message, Verify::kFull);
  }
}

// A shard that another writer made: well-formed safetensors, but not laid out as promised.
TEST_F(PackedModelTest, PlanesMustBeAlignedAndPadded) {
  WriteModel();
  const fs::path shard = model_ / "model-00001-of-00001.safetensors";
  const std::string original = ReadTextFile(shard);
  uint64_t header_size;
  std::memcpy(&header_size, original.data(), 8);
  const std::string header = original.substr(8, header_size);
  auto write = [&](const std::string& text) {
    const uint64_t size = text.size();
    WriteTextFile(shard, std::string(reinterpret_cast<const char*>(&size), 8) + text +
                             original.substr(8 + header_size));
  };
  write(header + " ");
  ExpectFailure(absl::StatusCode::kDataLoss, "is not aligned to 64 bytes");
  std::string renamed = header;
  const size_t pad = renamed.find(".__pad");
  ASSERT_NE(pad, std::string::npos) << "no plane of the tiny model needs padding";
  renamed[pad + 3] = 'P';
  write(renamed);
  ExpectFailure(absl::StatusCode::kDataLoss, "__pad");
}

}  // namespace
}  // namespace quantloom
