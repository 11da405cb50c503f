// `quantloom bench`: the client becomes the program beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/cli/program.h"
#include "tests/temporary_directory.h"

namespace quantloom::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

// The client in a directory of its own, where a script can stand for quantloom-bench.
class BenchProgramTest : public ::testing::Test {
 protected:
  BenchProgramTest() {
    std::error_code error;
    fs::create_hard_link(QUANTLOOM_PROGRAM, client(), error);
    if (error) fs::copy_file(QUANTLOOM_PROGRAM, client());
  }
  fs::path client() const { return directory_.path() / "quantloom"; }
  void InstallBench(const std::string& script) {
    const fs::path path = directory_.path() / "quantloom-bench";
    std::ofstream(path) << "#!/bin/sh\n" << script;
    fs::permissions(path, fs::perms::owner_all);
  }
  ProgramOptions Client() const { return {.program = client().string()}; }

 private:
  quantloom::testing::TemporaryDirectory directory_;
};

TEST_F(BenchProgramTest, Arguments_ArePassedOnAsTheyAre) {
  InstallBench("for a in \"$@\"; do echo \"[$a]\"; done\n");
  const Outcome outcome = RunProgram(
      {"bench", "--threads=2", "a model", "--help", "--server", "", "--json", "--", "-x"},
      Client());
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output,
            "[--threads=2]\n[a model]\n[--help]\n[--server]\n[]\n[--json]\n[--]\n[-x]\n");
  EXPECT_EQ(outcome.error, "");
}

TEST_F(BenchProgramTest, GlobalJson_IsTheProgramsToo) {
  InstallBench("echo \"$@\"\n");
  EXPECT_EQ(RunProgram({"--json", "bench", "model"}, Client()).output, "--json model\n");
}

TEST_F(BenchProgramTest, ExitStatus_IsTheProgramsOwn) {
  InstallBench("exit 7\n");
  EXPECT_EQ(RunProgram({"bench"}, Client()).status, 7);
}

TEST_F(BenchProgramTest, Signal_EndsTheProgram) {
  InstallBench("echo begun\nexec sleep 60\n");
  Program program({"bench"}, Client());
  ASSERT_TRUE(program.AwaitOutput("begun\n"));
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 128 + 2);
}

TEST_F(BenchProgramTest, MissingProgram_IsNamed) {
  const Outcome text = RunProgram({"bench", "model"}, Client());
  EXPECT_EQ(text.status, 1);
  EXPECT_THAT(text.error, AllOf(HasSubstr("NOT_FOUND"), HasSubstr("quantloom-bench")));
  const Outcome as_json = RunProgram({"--json", "bench", "model"}, Client());
  EXPECT_EQ(nlohmann::json::parse(as_json.error)["error"]["status"], "NOT_FOUND");
}

TEST(BenchProgram, RealOne_ExplainsItselfAndRefusesWrongCommandLines) {
  const Outcome help = RunProgram({"bench", "--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_THAT(help.output, AllOf(HasSubstr("quantloom bench"), HasSubstr("--generate")));
  EXPECT_EQ(RunProgram({"bench"}).status, 2);
  EXPECT_EQ(RunProgram({"bench", "model", "--batch", "0"}).status, 2);
  const Outcome missing = RunProgram({"bench", "/nowhere/model"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.error, HasSubstr("/nowhere/model"));
}

}  // namespace
}  // namespace quantloom::cli
