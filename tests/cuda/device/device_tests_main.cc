// Runs the kernels' tests on a CUDA device, with the kernels of libquantloom_cuda.so; where there
// is none, says why and exits with status 77, which ctest counts as skipped.
#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "engine/cuda/cuda_library.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/device_runtime.h"
#include "tests/cuda/device/device_arena.h"
#include "tests/cuda/device/library_kernels.h"

namespace quantloom {
namespace {

constexpr int kSkipped = 77;
constexpr size_t kArenaBytes = size_t{1} << 30;
constexpr size_t kStackBytes = size_t{64} << 20;  // tests hand over the addresses of variables, too

struct Tests {
  cuda::DeviceRuntime* runtime;
  int status;
};

void* RunTests(void* argument) {
  auto* const tests = static_cast<Tests*>(argument);
  // The device becomes this thread's.
  tests->status = tests->runtime->FreeBytes().ok() ? RUN_ALL_TESTS() : 1;
  return nullptr;
}

int Skip(const absl::Status& status) {
  std::printf("skipped: %s\n", std::string(status.message()).c_str());
  return kSkipped;
}

int Run() {
  // The tests wait for nothing: a launch returns when its kernel has run.
  setenv("CUDA_LAUNCH_BLOCKING", "1", /*overwrite=*/1);
  const auto library = LoadCudaLibrary();
  if (!library.ok()) return Skip(library.status());
  const auto runtime = (*library)->open_device(0);
  if (!runtime.ok()) return Skip(runtime.status());
  std::printf("on %s\n", (*runtime)->properties().name.c_str());

  const auto memory = (*runtime)->AllocatePinned(kStackBytes + kArenaBytes);
  if (!memory.ok()) {
    std::fprintf(stderr, "%s\n", memory.status().ToString().c_str());
    return 1;
  }
  testing::UseKernels(*(*library)->kernels);
  testing::UseDeviceArena(static_cast<char*>(*memory) + kStackBytes, kArenaBytes);
  Tests tests = {.runtime = runtime->get(), .status = 1};
  pthread_attr_t attributes;
  pthread_t thread;
  if (pthread_attr_init(&attributes) != 0 ||
      pthread_attr_setstack(&attributes, *memory, kStackBytes) != 0 ||
      pthread_create(&thread, &attributes, RunTests, &tests) != 0 ||
      pthread_join(thread, nullptr) != 0) {
    std::fprintf(stderr, "no thread on the device's memory\n");
    return 1;
  }
  // The memory outlives main: static objects of the tests are in it.
  std::fflush(stdout);
  std::_Exit(tests.status);
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  return quantloom::Run();
}
