#include "hwy/targets.h"

#include <cstdlib>
#include <iostream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/every_target.h"

namespace quantloom::cpu {
namespace {

TEST(Targets, ForcedTargetIsTheActiveOne) {
  OnEveryTarget([](const std::string& target) { EXPECT_EQ(ActiveTarget(), target); });
  EXPECT_EQ(std::string(ActiveTarget()), AvailableTargets().front());
}

TEST(Targets, EmulatedTargetIsInEveryBinary) {
  EXPECT_THAT(std::string(AvailableTargets().back()), testing::AnyOf("SCALAR", "EMU128", "NEON"));
}

TEST(Targets, UnknownTargetIsRefusedWithTheChoices) {
  const absl::Status status = ForceTarget("AVX9");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("AVX9"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(AvailableTargets().front()));
}

// Each in a process of its own, since the environment is read once.
class RequireSupportedCpuDeathTest : public ::testing::Test {
 protected:
  RequireSupportedCpuDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  // Calls it with QUANTLOOM_SIMD set; writes the status and the active target, and ends.
  [[noreturn]] static void Report(const char* variable) {
    setenv("QUANTLOOM_SIMD", variable, /*replace=*/1);
    const absl::Status status = RequireSupportedCpu();
    std::cerr << status << " target=" << ActiveTarget() << std::endl;
    std::exit(static_cast<int>(status.code()));
  }
  static auto Exits(absl::StatusCode code) {
    return ::testing::ExitedWithCode(static_cast<int>(code));
  }
};

TEST_F(RequireSupportedCpuDeathTest, TakesTheTargetThatTheEnvironmentNames) {
  for (const char* target : AvailableTargets()) {
    EXPECT_EXIT(Report(target), Exits(absl::StatusCode::kOk), std::string("target=") + target);
  }
}

TEST_F(RequireSupportedCpuDeathTest, TakesTheBestTargetWhenTheVariableIsEmpty) {
  EXPECT_EXIT(Report(""), Exits(absl::StatusCode::kOk),
              std::string("target=") + AvailableTargets().front());
}

TEST_F(RequireSupportedCpuDeathTest, RefusesAnUnknownTargetAndNamesVariableAndChoices) {
  EXPECT_EXIT(Report("sse2"), Exits(absl::StatusCode::kInvalidArgument),
              std::string("QUANTLOOM_SIMD: .*'sse2'.*") + AvailableTargets().back());
}

TEST_F(RequireSupportedCpuDeathTest, RefusesACpuThatIsTooOldUnlessAsked) {
  if (!HWY_ARCH_X86 || HWY_TARGETS == HWY_STATIC_TARGET) {
    GTEST_SKIP() << "a scalar build runs on any CPU, and every Arm CPU has NEON";
  }
  const auto on_old_cpu = [](const char* variable) {
    hwy::SetSupportedTargetsForTest(HWY_STATIC_TARGET);
    Report(variable);
  };
  EXPECT_EXIT(on_old_cpu(""), Exits(absl::StatusCode::kFailedPrecondition), "AVX2 with FMA");
  const char* emulated = hwy::TargetName(HWY_STATIC_TARGET);
  EXPECT_EXIT(on_old_cpu(emulated), Exits(absl::StatusCode::kOk),
              std::string("target=") + emulated);
}

}  // namespace
}  // namespace quantloom::cpu
