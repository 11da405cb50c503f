#include "kernels/cuda/device_runtime.h"

#include "gtest/gtest.h"

namespace quantloom::cuda {
namespace {

TEST(RequireCapability, RefusesDevicesThatTheBuildHasNoCodeFor) {
  EXPECT_EQ(RequireCapability(1, {.name = "T4", .compute_major = 7, .compute_minor = 5}, 80),
            absl::FailedPreconditionError("CUDA device 1 (T4) has compute capability 7.5; this "
                                          "build has kernels for 8.0 and up"));
  EXPECT_EQ(RequireCapability(0, {.name = "A100", .compute_major = 8, .compute_minor = 0}, 86),
            absl::FailedPreconditionError("CUDA device 0 (A100) has compute capability 8.0; this "
                                          "build has kernels for 8.6 and up"));
}

TEST(RequireCapability, TakesThatAndHigherOnes) {
  for (const int minor : {0, 6, 9}) {
    EXPECT_TRUE(
        RequireCapability(0, {.name = "A", .compute_major = 8, .compute_minor = minor}, 80).ok());
  }
  EXPECT_TRUE(
      RequireCapability(0, {.name = "B", .compute_major = 12, .compute_minor = 0}, 90).ok());
}

}  // namespace
}  // namespace quantloom::cuda
