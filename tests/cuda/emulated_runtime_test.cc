// The emulated runtime must be as unforgiving as the real one: work waits, errors stick, memory
// ends.
#include "tests/cuda/emulation/emulated_runtime.h"

#include <gtest/gtest.h>

#include "tests/cuda/emulation/primitives.h"

namespace quantloom::cuda_emulation {
namespace {

void Increment(int* value) { ++*value; }

const char* LaunchIncrement(int* value, cuda::Stream stream) {
  return cuda::LaunchKernel(1, 1, 0, stream, Increment, value);
}

class EmulatedRuntimeTest : public testing::Test {
 protected:
  void SetUp() override {
    stream_ = runtime_.CreateStream().value();
    device_ = static_cast<int*>(runtime_.Allocate(sizeof(int)).value());
    pinned_ = static_cast<int*>(runtime_.AllocatePinned(sizeof(int)).value());
  }
  void TearDown() override {
    runtime_.Destroy(stream_);
    runtime_.Free(device_);
    runtime_.FreePinned(pinned_);
  }
  void SetToZero() {
    constexpr int kZero = 0;
    EXPECT_TRUE(runtime_.CopyToDevice(device_, &kZero, sizeof(int), stream_).ok());
  }
  int OnDevice() {
    int value = 0;
    EXPECT_TRUE(runtime_.CopyToHost(&value, device_, sizeof(int), stream_).ok());
    EXPECT_TRUE(runtime_.Synchronize(stream_).ok());
    return value;
  }

  EmulatedRuntime runtime_{1024};
  cuda::Stream stream_ = nullptr;
  int* device_ = nullptr;
  int* pinned_ = nullptr;
};

TEST_F(EmulatedRuntimeTest, PinnedMemoryIsReadWhenTheCopyRunsOtherMemoryAtOnce) {
  *pinned_ = 1;
  ASSERT_TRUE(runtime_.CopyToDevice(device_, pinned_, sizeof(int), stream_).ok());
  *pinned_ = 2;
  EXPECT_EQ(OnDevice(), 2);
  int pageable = 3;
  ASSERT_TRUE(runtime_.CopyToDevice(device_, &pageable, sizeof(int), stream_).ok());
  pageable = 4;
  EXPECT_EQ(OnDevice(), 3);
}

TEST_F(EmulatedRuntimeTest, AnEventWaitsForTheWorkBeforeIt) {
  SetToZero();
  const cuda::Event event = runtime_.CreateEvent().value();
  ASSERT_EQ(LaunchIncrement(device_, stream_), nullptr);
  ASSERT_TRUE(runtime_.Record(event, stream_).ok());
  ASSERT_EQ(LaunchIncrement(device_, stream_), nullptr);
  ASSERT_TRUE(runtime_.Wait(event).ok());
  EXPECT_EQ(*device_, 1);
  EXPECT_EQ(OnDevice(), 2);
  // Recorded twice, it waits for what is before the second.
  ASSERT_TRUE(runtime_.Record(event, stream_).ok());
  ASSERT_EQ(LaunchIncrement(device_, stream_), nullptr);
  ASSERT_TRUE(runtime_.Record(event, stream_).ok());
  ASSERT_TRUE(runtime_.Wait(event).ok());
  EXPECT_EQ(*device_, 3);
  runtime_.Destroy(event);
}

TEST_F(EmulatedRuntimeTest, AGraphRunsWhenItIsLaunchedEachTimeAnew) {
  SetToZero();
  ASSERT_TRUE(runtime_.BeginCapture(stream_).ok());
  ASSERT_EQ(LaunchIncrement(device_, stream_), nullptr);
  ASSERT_EQ(LaunchIncrement(device_, stream_), nullptr);
  const cuda::Graph graph = runtime_.EndCapture(stream_).value();
  EXPECT_EQ(OnDevice(), 0);
  ASSERT_TRUE(runtime_.Launch(graph, stream_).ok());
  ASSERT_TRUE(runtime_.Launch(graph, stream_).ok());
  EXPECT_EQ(OnDevice(), 4);
  runtime_.Destroy(graph);
}

TEST_F(EmulatedRuntimeTest, AGraphTakesMemoryOfTheDevice) {
  void* const rest = runtime_.Allocate(*runtime_.FreeBytes()).value();
  ASSERT_TRUE(runtime_.BeginCapture(stream_).ok());
  EXPECT_EQ(runtime_.EndCapture(stream_).status().code(), absl::StatusCode::kResourceExhausted);
  runtime_.Free(rest);
  ASSERT_TRUE(runtime_.BeginCapture(stream_).ok());
  runtime_.Destroy(runtime_.EndCapture(stream_).value());
}

TEST_F(EmulatedRuntimeTest, MemoryEndsAndComesBack) {
  EXPECT_EQ(*runtime_.FreeBytes(), 1024 - sizeof(int));
  EXPECT_EQ(runtime_.Allocate(1024).status().code(), absl::StatusCode::kResourceExhausted);
  void* const memory = runtime_.Allocate(1000).value();
  EXPECT_EQ(*runtime_.FreeBytes(), 24 - sizeof(int));
  runtime_.Free(memory);
  EXPECT_EQ(OnDevice(), static_cast<int>(0xA5A5A5A5));
}

TEST_F(EmulatedRuntimeTest, CopiesBeyondAnAllocationFail) {
  int64_t wide = 0;
  EXPECT_FALSE(runtime_.CopyToDevice(device_, &wide, sizeof(wide), stream_).ok());
  EXPECT_FALSE(runtime_.CopyToHost(&wide, device_, sizeof(wide), stream_).ok());
  EXPECT_FALSE(runtime_.CopyOnDevice(device_, device_, sizeof(wide), stream_).ok());
}

TEST_F(EmulatedRuntimeTest, AnInjectedErrorSticks) {
  runtime_.FailAfter(1);
  EXPECT_EQ(LaunchIncrement(device_, stream_), nullptr);
  EXPECT_NE(LaunchIncrement(device_, stream_), nullptr);
  EXPECT_EQ(runtime_.Synchronize(stream_).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(runtime_.Allocate(1).status().code(), absl::StatusCode::kInternal);
}

TEST_F(EmulatedRuntimeTest, AKernelsErrorComesWhenItIsWaitedFor) {
  const auto fail = [] { Fail("out of luck"); };
  ASSERT_EQ(cuda::LaunchKernel(1, 1, 0, stream_, +fail), nullptr);
  EXPECT_FALSE(runtime_.Synchronize(stream_).ok());
  EXPECT_FALSE(runtime_.FreeBytes().ok());
}

}  // namespace
}  // namespace quantloom::cuda_emulation
