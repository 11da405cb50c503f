#include "engine/device.h"

#include "absl/strings/str_cat.h"
#include "engine/cuda/cuda_library.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantloom {
namespace {

using ::testing::HasSubstr;

TEST(ChooseDevice, TakesTheCpuWhenAsked) {
  const auto choice = ChooseDevice("cpu");
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->device->name(), "cpu");
  EXPECT_EQ(choice->device->memory_bytes(), 0);
  EXPECT_TRUE(choice->fallback.ok());
  ThreadTeam team(1);
  EXPECT_TRUE(choice->device->CreateBackend(team).ok());
}

TEST(ChooseDevice, RefusesWhatIsNoDevice) {
  for (const char* text : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda: 1", "cuda0",
                           "cuda:99999999999", "cpu:0", "CPU"}) {
    const absl::Status status = ChooseDevice(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("device '", text, "'")));
  }
}

TEST(ChooseDevice, AutoSaysWhyItTookTheCpu) {
  const auto choice = ChooseDevice("auto");
  ASSERT_TRUE(choice.ok()) << choice.status();
  if (choice->device->name() != "cpu") GTEST_SKIP() << "there is a CUDA device";
  EXPECT_TRUE(absl::IsFailedPrecondition(choice->fallback)) << choice->fallback;
  EXPECT_EQ(ChooseDevice("cuda").status(), choice->fallback);
}

TEST(LoadCudaLibrary, SaysThatItIsMissing) {
  const absl::Status status = LoadCudaLibrary("/nowhere/libquantloom_cuda.so").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/libquantloom_cuda.so"));
}

TEST(LoadCudaLibrary, RefusesALibraryOfAnotherBuild) {
  for (const char* library : {QUANTLOOM_OTHER_BUILD, "libm.so.6"}) {
    const absl::Status status = LoadCudaLibrary(library).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not of this build"));
  }
}

#ifdef QUANTLOOM_CUDA_BUILT
// Where there is no GPU that can be used, the message says so.
TEST(LoadCudaLibrary, OpensTheOneOfThisBuild) {
  const auto library = LoadCudaLibrary();
  ASSERT_TRUE(library.ok()) << library.status();
  const auto device = (*library)->open_device(0);
  if (device.ok()) {
    EXPECT_GE((*device)->properties().compute_major, 8);
    EXPECT_TRUE(absl::IsInvalidArgument((*library)->open_device(1000).status()));
  } else {
    EXPECT_TRUE(absl::IsFailedPrecondition(device.status())) << device.status();
    EXPECT_THAT(std::string(device.status().message()),
                ::testing::AnyOf(HasSubstr("no NVIDIA driver"), HasSubstr("cudaGetDeviceCount: ")));
  }
}
#endif

}  // namespace
}  // namespace quantloom
