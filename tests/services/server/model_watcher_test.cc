// Models published while the server runs become servable.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <filesystem>

#include "absl/time/clock.h"
#include "core/format/packed_manifest.h"
#include "services/quantizer/publication.h"
#include "tests/services/server/models_fixture.h"

namespace quantloom::testing {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kInterval = absl::Milliseconds(20);
// Long enough for a watcher to act several times.
constexpr absl::Duration kManyLooks = absl::Milliseconds(400);

class ModelWatcherTest : public ModelsTest {
 protected:
  void SetUp() override {
    ModelsTest::SetUp();
    options_.watch_models = kInterval;
  }
  std::vector<std::string> Loaded() {
    std::vector<std::string> names;
    for (const auto& model : server_->models().Loaded()) names.push_back(model->name);
    return names;
  }
  bool WaitUntilLoaded(const std::string& name, const std::string& manifest_sha256 = "") {
    for (const absl::Time end = absl::Now() + absl::Minutes(1); absl::Now() < end;) {
      for (const auto& model : server_->models().Loaded()) {
        if (model->name == name &&
            (manifest_sha256.empty() || model->description.manifest_sha256() == manifest_sha256)) {
          return true;
        }
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }
  absl::Status TryGenerate(const std::string& model) {
    v1::GenerateRequest request = Request("the rain", 5);
    request.set_model(model);
    return Generate(request).status;
  }
};

TEST_F(ModelWatcherTest, PublishedModel_BecomesServableAndItsStagingDirectoryNever) {
  options_.load_all = true;
  StartServer();
  const Publisher publisher(root_.path());
  const fs::path staging = publisher.StagingDirectory("job-1");
  WritePackedModel(staging.parent_path(), staging.filename().string(), /*seed=*/2);
  absl::SleepFor(kManyLooks);
  EXPECT_THAT(Loaded(), ::testing::ElementsAre("tiny"));
  EXPECT_EQ(List().size(), 1u);
  ASSERT_TRUE(publisher.Publish("job-1", "published").ok());
  ASSERT_TRUE(WaitUntilLoaded("published"));
  const absl::Status generated = TryGenerate("published");
  EXPECT_TRUE(generated.ok()) << generated;
  EXPECT_EQ(CheckHealth(channel_, "models/published"), Health::kServing);
}

TEST_F(ModelWatcherTest, DirectoryCopiedFileByFile_IsLoadedOnceItIsComplete) {
  options_.load_all = true;
  StartServer();
  WritePackedModel(root_.path(), ".elsewhere", /*seed=*/2);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(root_.path() / ".elsewhere")) {
    files.push_back(entry.path());
  }
  // The manifest first: the worst order.
  std::stable_partition(files.begin(), files.end(),
                        [](const fs::path& file) { return file.filename() == kManifestFile; });
  fs::create_directory(root_.path() / "copied");
  for (const fs::path& file : files) {
    EXPECT_THAT(Loaded(), ::testing::ElementsAre("tiny"));
    fs::copy_file(file, root_.path() / "copied" / file.filename());
    absl::SleepFor(3 * kInterval);
  }
  EXPECT_TRUE(WaitUntilLoaded("copied"));
}

TEST_F(ModelWatcherTest, ReplacedModel_IsChangedAndOthersAreLeftAlone) {
  StartServer();
  WritePackedModel(root_.path(), "other", /*seed=*/3);
  WritePackedModel(root_.path(), ".new", /*seed=*/2);
  fs::rename(root_.path() / "tiny", root_.path() / ".old");
  absl::SleepFor(kManyLooks);
  EXPECT_TRUE(TryGenerate("tiny").ok()) << "the directory is away, the model is not";
  fs::rename(root_.path() / ".new", root_.path() / "tiny");
  while (List()[1].update_available()) absl::SleepFor(absl::Milliseconds(2));
  EXPECT_TRUE(TryGenerate("tiny").ok());
  EXPECT_THAT(Loaded(), ::testing::ElementsAre("tiny")) << "without load-all";
}

TEST_F(ModelWatcherTest, UnloadedModel_StaysUnloadedUntilItsDirectoryChanges) {
  options_.load_all = true;
  StartServer();
  absl::SleepFor(kManyLooks);
  v1::Model model;
  ASSERT_TRUE(Unload("tiny", &model).ok());
  absl::SleepFor(kManyLooks);
  EXPECT_TRUE(Loaded().empty());
  fs::remove_all(root_.path() / "tiny");
  WritePackedModel(root_.path(), "tiny", /*seed=*/2);
  EXPECT_TRUE(WaitUntilLoaded("tiny"));
}

TEST_F(ModelWatcherTest, ModelThatDoesNotFit_IsLoadedOnceMemoryIsFree) {
  StartServer();
  options_.memory_limit = server_->models().MemoryUsed() * 3 / 2;
  StopServer();
  options_.load_all = true;
  WritePackedModel(root_.path(), "wider", /*seed=*/2);
  StartServer();
  absl::SleepFor(kManyLooks);
  EXPECT_THAT(Loaded(), ::testing::ElementsAre("tiny"));
  v1::Model model;
  ASSERT_TRUE(Unload("tiny", &model).ok());
  EXPECT_TRUE(WaitUntilLoaded("wider"));
}

TEST_F(ModelWatcherTest, Drain_DoesNotWaitForTheNextLook) {
  options_.watch_models = absl::Hours(1);
  StartServer();
  const absl::Time begin = absl::Now();
  StopServer();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30));
}

}  // namespace
}  // namespace quantloom::testing
