// Codecs that search on a CUDA device, emulated, against the same on the host.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/codec/codec.h"
#include "core/rounding/hessian_factors.h"
#include "engine/cuda/cuda_trellis_search.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/emulation/emulated_device.h"
#include "tests/kernels/random_floats.h"

namespace quantloom {
namespace {

using cuda_emulation::EmulatedDevice;
using cuda_emulation::EmulatedRuntime;
using ::testing::HasSubstr;

// Rows that are no multiple of a tile's, in more tiles than the one thread.
constexpr uint64_t kRows = 40, kCols = 24;

class TrellisSearchTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> Open(const EmulatedDevice& device) {
    auto backend = device.CreateBackend(team_);
    EXPECT_TRUE(backend.ok()) << backend.status();
    return *std::move(backend);
  }

  absl::StatusOr<EncodedMatrix> Encode(const std::string& recipe, TrellisSearch* search) {
    HessianFactors hessian(hessian_);
    const auto codec = CreateCodec(recipe);
    EXPECT_TRUE(codec.ok()) << codec.status();
    return (*codec)->Encode({.weights = weights_,
                             .rows = kRows,
                             .cols = kCols,
                             .hessian = &hessian,
                             .input_seed = 1,
                             .output_seed = 2,
                             .trellis_search = search},
                            team_);
  }

  static Hessian MakeHessian(ThreadTeam& team) {
    Hessian hessian(kCols);
    hessian.Accumulate(cpu::RandomFloats(64 * kCols, 5), team);
    return hessian;
  }

  ThreadTeam team_{1};
  const std::vector<float> weights_ = cpu::RandomFloats(kRows * kCols, 3, 0.1f);
  const Hessian hessian_ = MakeHessian(team_);
};

TEST_F(TrellisSearchTest, CodecsLeaveTheHostsBytes) {
  const EmulatedDevice device;
  const std::unique_ptr<Backend> backend = Open(device);
  for (const char* recipe : {"qtip:bits=3,code=hyb", "icquant:inner=trellis,bits=2"}) {
    const auto expected = Encode(recipe, nullptr);
    const uint64_t calls = device.runtime().counts().synchronizations;
    const auto encoded = Encode(recipe, backend->trellis_search());
    ASSERT_TRUE(expected.ok() && encoded.ok()) << encoded.status();
    // A search for each column of tiles: the scale is found on fewer rows, by the host.
    EXPECT_EQ(device.runtime().counts().synchronizations - calls, 2) << recipe;
    EXPECT_EQ(encoded->recipe, expected->recipe);
    EXPECT_EQ(encoded->relative_error, expected->relative_error);
    ASSERT_EQ(encoded->planes.size(), expected->planes.size());
    for (size_t i = 0; i < encoded->planes.size(); ++i) {
      EXPECT_EQ(encoded->planes[i].bytes, expected->planes[i].bytes) << recipe;
    }
  }
}

TEST_F(TrellisSearchTest, RatesThatNeedMoreSharedMemoryAreLeftToTheHost) {
  // Of compute capability 8.6.
  auto context = CudaContext::Create(
      std::make_unique<EmulatedRuntime>(uint64_t{1} << 30, /*shared_bytes=*/uint64_t{99} << 10),
      cuda::Kernels());
  ASSERT_TRUE(context.ok()) << context.status();
  const CudaTrellisSearch search(**context);
  EXPECT_FALSE(search.Takes(*TrellisFormat::Create(TrellisCode::kMul1, 2)));
  EXPECT_FALSE(search.Takes(*TrellisFormat::Create(TrellisCode::kMul1, 3)));
  EXPECT_TRUE(search.Takes(*TrellisFormat::Create(TrellisCode::kMul1, 4)));
  EXPECT_TRUE(search.Takes(*TrellisFormat::Create(TrellisCode::kHyb, 2)));
}

TEST_F(TrellisSearchTest, MemoryThatCannotBeHadIsNamedAndLeavesTheDeviceGood) {
  const EmulatedDevice device(/*memory_bytes=*/400000);
  const std::unique_ptr<Backend> backend = Open(device);
  const auto refused = Encode("qtip:bits=2", backend->trellis_search());
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("trellis search: asked for 3145728 bytes of device memory"));
  EXPECT_TRUE(backend->status().ok());
}

TEST_F(TrellisSearchTest, ADeviceThatFailsEndsTheEncoding) {
  EmulatedDevice device;
  uint64_t failures = 0;
  for (uint64_t calls = 5;; calls += 3) {
    device.FailAfter(calls);
    const absl::StatusOr<std::unique_ptr<Backend>> backend = device.CreateBackend(team_);
    if (!backend.ok()) continue;
    const auto encoded = Encode("qtip:bits=4,code=hyb", (*backend)->trellis_search());
    if (encoded.ok()) break;
    ++failures;
    EXPECT_TRUE(absl::IsInternal(encoded.status())) << encoded.status();
    EXPECT_TRUE(absl::IsInternal((*backend)->status())) << (*backend)->status();
  }
  EXPECT_GT(failures, 3);
}

}  // namespace
}  // namespace quantloom
