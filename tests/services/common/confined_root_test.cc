#include "services/common/confined_root.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

//   outside/secret        root/model.gguf      root/dir/file
//   root/inner -> dir     root/escape -> ../outside     alias -> root
class ConfinedRootTest : public ::testing::Test {
 protected:
  ConfinedRootTest() {
    fs::create_directories(base() / "outside");
    fs::create_directories(base() / "root/dir");
    std::ofstream(base() / "outside/secret") << "secret";
    std::ofstream(base() / "root/model.gguf") << "model";
    std::ofstream(base() / "root/dir/file") << "file";
    fs::create_symlink("dir", base() / "root/inner");
    fs::create_symlink("../outside", base() / "root/escape");
    fs::create_symlink("loop", base() / "root/loop");
    fs::create_symlink("root", base() / "alias");
  }

  fs::path base() const { return fs::canonical(directory_.path()); }
  absl::StatusOr<fs::path> Resolve(const std::string& path) const {
    return ConfinedRoot::Open(base() / "root")->Resolve(path);
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(ConfinedRootTest, Resolve_GivesTheCanonicalPathOfWhatIsInside) {
  EXPECT_EQ(*Resolve("model.gguf"), base() / "root/model.gguf");
  EXPECT_EQ(*Resolve("./dir/../dir//file"), base() / "root/dir/file");
  EXPECT_EQ(*Resolve("inner/file"), base() / "root/dir/file");
  EXPECT_EQ(*Resolve((base() / "root/dir").string()), base() / "root/dir");
}

TEST_F(ConfinedRootTest, Resolve_TakesAbsolutePathsSpelledWithTheConfiguredRoot) {
  const auto root = ConfinedRoot::Open(base() / "alias/");
  ASSERT_TRUE(root.ok()) << root.status();
  EXPECT_EQ(root->path(), base() / "root");
  EXPECT_EQ(*root->Resolve((base() / "alias/model.gguf").string()), base() / "root/model.gguf");
}

TEST_F(ConfinedRootTest, Resolve_RefusesWhatLeadsOutside) {
  for (const std::string& path :
       {std::string("../outside/secret"), std::string("dir/../../outside/secret"),
        std::string("escape/secret"), std::string("escape"), std::string("/etc/passwd"),
        (base() / "outside/secret").string(), (base() / "rootless").string(), std::string("/"),
        std::string("..")}) {
    EXPECT_EQ(Resolve(path).status().code(), absl::StatusCode::kPermissionDenied) << path;
  }
}

TEST_F(ConfinedRootTest, Resolve_DoesNotTellWhetherFilesOutsideExist) {
  EXPECT_EQ(Resolve("../outside/missing").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Resolve("/missing").status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(ConfinedRootTest, Resolve_ReportsWhatIsMissingAsGiven) {
  const absl::Status status = Resolve("dir/missing.gguf").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'dir/missing.gguf'"));
  EXPECT_EQ(Resolve("model.gguf/inside").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ConfinedRootTest, Resolve_RefusesMalformedPaths) {
  for (const std::string& path : {std::string(), std::string("model\0.gguf", 11),
                                  std::string(10000, 'x'), std::string("loop")}) {
    EXPECT_EQ(Resolve(path).status().code(), absl::StatusCode::kInvalidArgument) << path;
  }
}

TEST_F(ConfinedRootTest, Resolve_RefusesWhatCannotBeRead) {
  fs::permissions(base() / "root/model.gguf", fs::perms::none);
  fs::permissions(directory_.path(), fs::perms::all);
  const bool root = geteuid() == 0;
  ASSERT_EQ(root ? seteuid(65534) : 0, 0);
  const absl::Status status = Resolve("model.gguf").status();
  ASSERT_EQ(root ? seteuid(0) : 0, 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
}

TEST_F(ConfinedRootTest, Open_RefusesWhatIsNoDirectory) {
  EXPECT_EQ(ConfinedRoot::Open(base() / "missing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ConfinedRoot::Open(base() / "root/model.gguf").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CheckNameTest, CheckName_TakesPlainNames) {
  for (const char* name : {"a", "SmolLM2-135M_2bit.v1", "0", "-"}) {
    EXPECT_TRUE(CheckName(name).ok()) << name;
  }
  EXPECT_TRUE(CheckName(std::string(128, 'n')).ok());
}

TEST(CheckNameTest, CheckName_RefusesTheRest) {
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string(".hidden"),
        std::string("a/b"), std::string("a b"), std::string("a\0b", 3), std::string("\xC3\xA9"),
        std::string(129, 'n')}) {
    EXPECT_EQ(CheckName(name).code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

}  // namespace
}  // namespace quantloom
