// A quantization job on a file system that runs out of space: a tmpfs in a mount namespace of this
// process, which needs no privileges where the kernel lets users have namespaces.
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/parallel.h"
#include "core/format/packed_model.h"
#include "engine/quantize/quantize_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/tiny_model.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Phase = QuantizeProgress::Phase;

constexpr uint64_t kPage = 4096;

bool WriteText(const char* path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

// The file that an error names in quotes, without its directory.
std::string NamedFile(const absl::Status& status) {
  const std::string message(status.message());
  const size_t begin = message.rfind('/');
  const size_t end = message.find('\'', begin);
  return begin == std::string::npos ? "" : message.substr(begin + 1, end - begin - 1);
}

class FullDiskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteTinyModel(directory_.path() / "source", /*seed=*/7);
    options_.source = directory_.path() / "source";
    options_.recipe = "icquant:bits=2,inner=rtn,outliers=0";
    options_.calibration_tokens = 0;
    fs::create_directories(disk());
    static const std::string namespace_error = EnterNamespace();
    if (!namespace_error.empty()) GTEST_SKIP() << namespace_error;
    Mount(kPage, 0);
  }
  void TearDown() override { umount(disk().c_str()); }

  fs::path disk() const { return directory_.path() / "disk"; }
  fs::path staging() const { return disk() / "staging"; }

  void Resize(uint64_t bytes) { Mount(bytes, MS_REMOUNT); }

  absl::Status Run(const std::function<void(const QuantizeProgress&)>& progress = [](const auto&) {
  }) {
    ThreadTeam team(1);
    return QuantizeModel(options_, staging(), team, progress, [] { return false; }).status();
  }

  // File -> contents of what a job left.
  static std::map<std::string, std::string> Contents(const fs::path& directory) {
    std::map<std::string, std::string> contents;
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      if (!entry.is_regular_file()) continue;
      contents[fs::relative(entry.path(), directory)] = ReadFile(entry.path()).value();
    }
    return contents;
  }

  testing::TemporaryDirectory directory_;
  QuantizeOptions options_;

 private:
  // User and mount namespace of this process; why it cannot have them, or nothing.
  static std::string EnterNamespace() {
    const uid_t user = geteuid();
    const gid_t group = getegid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
      return absl::StrCat("no user namespace: ", std::strerror(errno));
    }
    const bool mapped = WriteText("/proc/self/setgroups", "deny") &&
                        WriteText("/proc/self/uid_map", absl::StrCat("0 ", user, " 1")) &&
                        WriteText("/proc/self/gid_map", absl::StrCat("0 ", group, " 1"));
    return mapped ? "" : "cannot map the user into a namespace";
  }

  void Mount(uint64_t bytes, unsigned long flags) {
    ASSERT_EQ(mount("tmpfs", disk().c_str(), "tmpfs", flags, absl::StrCat("size=", bytes).c_str()),
              0)
        << std::strerror(errno);
  }
};

TEST_F(FullDiskTest, EachFileThatDoesNotFitIsNamedAndTheJobGoesOnWithMoreSpace) {
  std::set<std::string> named;
  absl::Status status = absl::UnknownError("not run");
  for (uint64_t size = kPage; !status.ok(); size += kPage) {
    ASSERT_LT(size, uint64_t{64} << 20);
    Resize(size);
    status = Run();
    if (status.ok()) break;
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("'", staging().string())));
    named.insert(NamedFile(status));
    EXPECT_FALSE(PackedModel::Open(staging(), Verify::kHeader).ok());
    for (const auto& [file, contents] : Contents(staging())) {
      EXPECT_FALSE(absl::EndsWith(file, ".tmp")) << file << " was left at " << size << " bytes";
    }
  }
  EXPECT_TRUE(named.contains("model.layers.1.mlp.down_proj.weight.safetensors.tmp"));
  EXPECT_TRUE(named.contains("model-00001-of-00001.safetensors"));
  EXPECT_TRUE(named.contains("tokenizer.json.tmp"));
  EXPECT_TRUE(named.contains("quantloom.json.tmp"));

  const auto found = Contents(staging());
  Resize(uint64_t{64} << 20);
  fs::remove_all(staging());
  ASSERT_TRUE(Run().ok());
  EXPECT_TRUE(found == Contents(staging())) << "the bytes are those of an undisturbed run";
}

TEST_F(FullDiskTest, AReportThatDoesNotFitIsNamedAndWrittenByTheNextRun) {
  Resize(uint64_t{8} << 20);
  options_.evaluation_text = std::string(64, 'a');
  options_.evaluation_window_tokens = 16;
  const fs::path ballast = disk() / "ballast";
  const absl::Status status = Run([&](const QuantizeProgress& progress) {
    if (progress.phase != Phase::kEvaluating) return;
    std::ofstream file(ballast, std::ios::binary | std::ios::app);
    while (file << std::string(kPage, 'x') << std::flush) {
    }
  });
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(NamedFile(status), "quality.json.tmp");
  EXPECT_TRUE(PackedModel::Open(staging(), Verify::kFull).ok()) << "what is finished stays";
  EXPECT_FALSE(fs::exists(staging() / "quality.json"));
  EXPECT_FALSE(fs::exists(staging() / "quality.json.tmp"));
  fs::remove(ballast);
  EXPECT_TRUE(Run().ok());
  EXPECT_TRUE(fs::exists(staging() / "report.html"));
}

}  // namespace
}  // namespace quantloom
