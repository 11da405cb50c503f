#include "services/quantizer/publication.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/base/file.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::UnorderedElementsAre;

class PublicationTest : public ::testing::Test {
 protected:
  void Stage(const std::string& job, const std::string& manifest) {
    fs::create_directories(publisher_.StagingDirectory(job));
    std::ofstream(publisher_.StagingDirectory(job) / "quantloom.json") << manifest;
  }
  std::string ReadManifest(const std::string& output) {
    return ReadFile(publisher_.OutputDirectory(output) / "quantloom.json").value_or("");
  }

  testing::TemporaryDirectory root_;
  Publisher publisher_{root_.path()};
};

TEST_F(PublicationTest, Publish_MovesTheStagingDirectoryToTheOutput) {
  Stage("job-1", "one");
  EXPECT_FALSE(publisher_.OutputExists("model"));
  ASSERT_TRUE(publisher_.Publish("job-1", "model").ok());
  EXPECT_TRUE(publisher_.OutputExists("model"));
  EXPECT_EQ(ReadManifest("model"), "one");
  EXPECT_FALSE(fs::exists(publisher_.StagingDirectory("job-1")));
}

TEST_F(PublicationTest, Publish_NeverReplacesWhatIsThere) {
  Stage("job-1", "one");
  Stage("job-2", "two");
  fs::create_directory(root_.path() / "empty");
  fs::create_symlink("nowhere", root_.path() / "dangling");
  ASSERT_TRUE(publisher_.Publish("job-1", "model").ok());
  for (const char* output : {"model", "empty", "dangling"}) {
    EXPECT_TRUE(publisher_.OutputExists(output)) << output;
    EXPECT_EQ(publisher_.Publish("job-2", output).code(), absl::StatusCode::kAlreadyExists);
  }
  EXPECT_EQ(ReadManifest("model"), "one");
  EXPECT_TRUE(fs::is_empty(root_.path() / "empty"));
  EXPECT_TRUE(fs::exists(publisher_.StagingDirectory("job-2")));
}

TEST_F(PublicationTest, ManifestDigest_TellsContentsApart) {
  Stage("job-1", "one");
  Stage("job-2", "one");
  Stage("job-3", "three");
  const auto digest = [this](const char* job) {
    return publisher_.ManifestDigest(publisher_.StagingDirectory(job));
  };
  EXPECT_EQ(*digest("job-1"), *digest("job-2"));
  EXPECT_NE(*digest("job-1"), *digest("job-3"));
  EXPECT_EQ(digest("job-4").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PublicationTest, RemoveStaging_RemovesEverythingAndAcceptsNothing) {
  Stage("job-1", "one");
  fs::create_directories(publisher_.StagingDirectory("job-1") / "tensors/deep");
  EXPECT_TRUE(publisher_.RemoveStaging("job-1").ok());
  EXPECT_TRUE(fs::is_empty(root_.path()));
  EXPECT_TRUE(publisher_.RemoveStaging("job-1").ok());
}

TEST_F(PublicationTest, StagedJobs_FindsStagingDirectoriesAlone) {
  Stage("job-1", "one");
  Stage("job-2", "two");
  fs::create_directory(root_.path() / "model");
  fs::create_directory(root_.path() / ".cache");
  EXPECT_THAT(publisher_.StagedJobs(), UnorderedElementsAre("job-1", "job-2"));
}

}  // namespace
}  // namespace quantloom
