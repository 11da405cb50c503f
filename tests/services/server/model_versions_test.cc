// A model replaced by another version while it is served, and what all of it takes in memory.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/services/server/models_fixture.h"

namespace quantloom::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ModelVersionsTest : public ModelsTest {
 protected:
  // Puts another model in the place of `name`, as operators do: the old directory is renamed away.
  void Replace(const std::string& name, uint64_t seed) {
    WritePackedModel(root_.path(), ".new", seed);
    std::filesystem::rename(root_.path() / name, root_.path() / ".old");
    std::filesystem::rename(root_.path() / ".new", root_.path() / name);
    std::filesystem::remove_all(root_.path() / ".old");
  }
  v1::Model Listed(const std::string& name) {
    for (const v1::Model& model : List()) {
      if (model.name() == name) return model;
    }
    return {};
  }
  std::string TextOf(const std::string& model) {
    v1::GenerateRequest request = Request("the rain", 40);
    request.set_model(model);
    const Generated generated = Generate(request);
    EXPECT_TRUE(generated.status.ok()) << generated.status;
    return generated.text;
  }

  // A stream that goes on until it is read, since its responses are large.
  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader;
    std::vector<int32_t> ids;

    bool Read() {
      v1::GenerateResponse response;
      if (!reader->Read(&response)) return false;
      for (const v1::GeneratedToken& token : response.tokens()) ids.push_back(token.id());
      return true;
    }
  };
  static v1::GenerateRequest LongRequest() {
    v1::GenerateRequest request = Request("the rain", 3000);
    request.set_model("tiny");
    request.set_logprobs(20);
    return request;
  }
  std::unique_ptr<Stream> StartStream() {
    auto stream = std::make_unique<Stream>();
    stream->reader = generation_->Generate(&stream->context, LongRequest());
    EXPECT_TRUE(stream->Read());
    return stream;
  }
};

TEST_F(ModelVersionsTest, ReplacedModel_ChangesWithoutDroppingStreams) {
  WritePackedModel(root_.path(), "twin", /*seed=*/2);
  options_.load = {"tiny", "twin"};
  StartServer();
  const std::string old_text = TextOf("tiny");
  const std::string new_text = TextOf("twin");
  ASSERT_NE(old_text, new_text);
  const std::vector<int32_t> expected = Generate(LongRequest()).ids();
  const v1::Model before = Listed("tiny");
  EXPECT_FALSE(before.update_available());
  EXPECT_GT(before.memory_bytes(), 0u);

  const auto stream = StartStream();
  Replace("tiny", /*seed=*/2);
  const v1::Model replaced = Listed("tiny");
  EXPECT_TRUE(replaced.update_available());
  EXPECT_EQ(replaced.manifest_sha256(), before.manifest_sha256()) << "what is served";
  EXPECT_EQ(TextOf("tiny"), old_text) << "until it is told to load";

  v1::Model model;
  ASSERT_TRUE(Load("tiny", &model).ok());
  EXPECT_EQ(model.manifest_sha256(), Listed("twin").manifest_sha256());
  EXPECT_EQ(TextOf("tiny"), new_text);
  const v1::Model both = Listed("tiny");
  EXPECT_FALSE(both.update_available());
  EXPECT_EQ(both.ending_versions(), 1u);
  EXPECT_EQ(both.memory_bytes(), before.memory_bytes() + Listed("twin").memory_bytes());

  while (stream->Read()) {
  }
  EXPECT_TRUE(stream->reader->Finish().ok());
  EXPECT_EQ(stream->ids, expected);
  while (Listed("tiny").ending_versions() > 0) absl::SleepFor(absl::Milliseconds(1));
  while (Listed("tiny").memory_bytes() != Listed("twin").memory_bytes()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
}

TEST_F(ModelVersionsTest, CountersGoOnWhenAVersionEnds) {
  StartServer();
  ASSERT_TRUE(Generate(Request("the rain", 30)).status.ok());
  const auto generated = [this] {
    return server_->models().GetStatistics().at(0).engine.generated_tokens;
  };
  const uint64_t before = generated();
  EXPECT_GE(before, 30u);
  Replace("tiny", /*seed=*/2);
  v1::Model model;
  ASSERT_TRUE(Load("tiny", &model).ok());
  while (Listed("tiny").ending_versions() > 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_GE(generated(), before);
  ASSERT_TRUE(Generate(Request("the rain", 30)).status.ok());
  EXPECT_GE(generated(), before + 30);
}

TEST_F(ModelVersionsTest, Unload_WaitsForTheStreamsOfAllVersions) {
  StartServer();
  const auto stream = StartStream();
  Replace("tiny", /*seed=*/2);
  v1::Model model;
  ASSERT_TRUE(Load("tiny", &model).ok());
  auto unload = std::async(std::launch::async, [&] { return Unload("tiny", &model); });
  while (Listed("tiny").state() != v1::MODEL_STATE_UNLOADING) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(unload.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  EXPECT_EQ(Load("tiny", &model).code(), absl::StatusCode::kFailedPrecondition);
  while (stream->Read()) {
  }
  EXPECT_TRUE(stream->reader->Finish().ok());
  EXPECT_TRUE(unload.get().ok());
  EXPECT_EQ(server_->models().MemoryUsed(), 0u);
  EXPECT_TRUE(Load("tiny", &model).ok());
}

TEST_F(ModelVersionsTest, UnusableReplacement_LeavesTheLoadedVersion) {
  StartServer();
  const std::string text = TextOf("tiny");
  Replace("tiny", /*seed=*/2);
  std::filesystem::resize_file(root_.path() / "tiny" / "config.json", 3);
  v1::Model model;
  const absl::Status status = Load("tiny", &model);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("tiny"));
  EXPECT_EQ(TextOf("tiny"), text);
  EXPECT_EQ(Listed("tiny").state(), v1::MODEL_STATE_LOADED);
  EXPECT_TRUE(Unload("tiny", &model).ok());
}

TEST_F(ModelVersionsTest, VanishedDirectory_LeavesTheModelServedUntilItIsUnloaded) {
  StartServer();
  const std::string text = TextOf("tiny");
  std::filesystem::remove_all(root_.path() / "tiny");
  EXPECT_EQ(TextOf("tiny"), text);
  ASSERT_EQ(List().size(), 1u);
  EXPECT_EQ(List()[0].state(), v1::MODEL_STATE_LOADED);
  v1::Model model;
  EXPECT_EQ(Load("tiny", &model).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Get("tiny", /*tensors=*/true, &model).ok());
  EXPECT_GT(model.tensors_size(), 0);
  EXPECT_TRUE(Unload("tiny", &model).ok());
  EXPECT_TRUE(List().empty());
  EXPECT_EQ(Unload("tiny", &model).code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelVersionsTest, MemoryLimit_CountsWeightsKvCacheAndActivationsToTheByte) {
  StartServer();
  const uint64_t needed = Listed("tiny").memory_bytes();
  const GenerationEngine::Memory engine =
      GenerationEngine::MemoryFor(server_->models().Loaded()[0]->loaded->config(), options_.engine);
  // 16 x 2048 positions x 2 layers x (keys + values) x 2 heads x 16 values x 2 bytes.
  EXPECT_EQ(engine.kv_cache, 16ull * 2048 * 2 * 2 * 2 * 16 * 2);
  EXPECT_GT(engine.activations, 0u);
  EXPECT_GT(needed, engine.kv_cache + engine.activations);
  StopServer();

  options_.load.clear();
  options_.memory_limit = needed - 1;
  StartServer();
  v1::Model model;
  const absl::Status refused = Load("tiny", &model);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr(absl::StrCat("needs ", needed, " bytes")),
                    HasSubstr(absl::StrCat(needed - 1, " of the limit of ", needed - 1))));
  EXPECT_EQ(server_->models().MemoryUsed(), 0u);
  StopServer();

  options_.memory_limit = needed;
  StartServer();
  EXPECT_TRUE(Load("tiny", &model).ok());
  EXPECT_EQ(server_->models().MemoryUsed(), needed);
}

TEST_F(ModelVersionsTest, VersionsThatDoNotFitTogether_AreRefusedAndTheLoadedOneGoesOn) {
  StartServer();
  const uint64_t needed = Listed("tiny").memory_bytes();
  StopServer();
  options_.memory_limit = needed * 3 / 2;
  StartServer();
  const std::string text = TextOf("tiny");
  Replace("tiny", /*seed=*/2);
  v1::Model model;
  const absl::Status refused = Load("tiny", &model);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr(absl::StrCat("and ", needed * 3 / 2 - needed, " of the limit")),
                    HasSubstr(absl::StrCat("other versions of it take ", needed))));
  EXPECT_EQ(TextOf("tiny"), text);
  ASSERT_TRUE(Unload("tiny", &model).ok());
  ASSERT_TRUE(Load("tiny", &model).ok());
  EXPECT_NE(TextOf("tiny"), text);
}

TEST_F(ModelVersionsTest, Health_KnowsEachModelWhileItTakesRequests) {
  StartServer();
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kServing);
  EXPECT_EQ(CheckHealth(channel_, "models/absent"), Health::kUnknown);
  v1::Model model;
  ASSERT_TRUE(Unload("tiny", &model).ok());
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kNotServing);
  ASSERT_TRUE(Load("tiny", &model).ok());
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kServing);
  Replace("tiny", /*seed=*/2);
  ASSERT_TRUE(Load("tiny", &model).ok());
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kServing);
  server_->models().StopAdmitting();
  EXPECT_EQ(CheckHealth(channel_, "models/tiny"), Health::kNotServing);
}

}  // namespace
}  // namespace quantloom::testing
