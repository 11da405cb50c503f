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

}  // namespace
}  // namespace quantloom::cpu
