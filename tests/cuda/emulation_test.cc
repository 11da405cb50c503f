// The emulation must show what it is there for: a missing barrier, an access out of bounds, a copy
// that nobody waited for, lanes that do not meet; and compute what the hardware does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>
#include <vector>

#include "tests/cuda/emulation/primitives.h"

namespace quantloom::cuda_emulation {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kAll = 0xFFFFFFFFu;
constexpr uint64_t kSeeds = 8;

std::string Failure(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  return std::string(status.message());
}

// --- Grid, block, shared memory.

TEST(Execution, EveryThreadOfTheGridRunsOnce) {
  const Dim3 grid{3, 2, 1};
  const Dim3 block{40, 1, 2};
  std::vector<int> runs(grid.count() * block.count());
  ASSERT_TRUE(Launch(grid, block, 0, 1, [&] {
                const uint32_t block_number = blockIdx.y * gridDim.x + blockIdx.x;
                ++runs[(block_number * blockDim.z + threadIdx.z) * blockDim.x + threadIdx.x];
              }).ok());
  EXPECT_THAT(runs, Each(1));
}

TEST(Execution, ShapesThatCudaRefusesAreRefused) {
  const auto nothing = [] {};
  EXPECT_EQ(Launch({0, 1, 1}, {32, 1, 1}, 0, 1, nothing).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Launch({1, 1, 1}, {1025, 1, 1}, 0, 1, nothing).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Launch({1, 1, 1}, {32, 1, 1}, kMaxSharedBytes + 1, 1, nothing).code(),
            absl::StatusCode::kInvalidArgument);
}

// Reverses an array through shared memory.
void Reverse(bool with_barrier, std::vector<int>& values) {
  auto* const shared = static_cast<int*>(DynamicShared());
  shared[threadIdx.x] = values[threadIdx.x];
  if (with_barrier) __syncthreads();
  values[threadIdx.x] = shared[values.size() - 1 - threadIdx.x];
}

TEST(Execution, SharedMemoryIsTheBlocksAfterABarrier) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<int> values{0, 1, 2, 3, 4, 5};
    ASSERT_TRUE(
        Launch({1, 1, 1}, {6, 1, 1}, 6 * sizeof(int), seed, [&] { Reverse(true, values); }).ok());
    EXPECT_THAT(values, ElementsAre(5, 4, 3, 2, 1, 0));
  }
}

TEST(Execution, AMissingBarrierShows) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    std::vector<int> values{0, 1, 2, 3, 4, 5};
    ASSERT_TRUE(
        Launch({1, 1, 1}, {6, 1, 1}, 6 * sizeof(int), seed, [&] { Reverse(false, values); }).ok());
    EXPECT_NE(values, (std::vector<int>{5, 4, 3, 2, 1, 0})) << "seed " << seed;
  }
}

TEST(Execution, ThreadsThatHaveEndedAreNotWaitedForAtABarrier) {
  int after = 0;
  ASSERT_TRUE(Launch({1, 1, 1}, {64, 1, 1}, 0, 1, [&] {
                if (threadIdx.x >= 40) return;
                __syncthreads();
                ++after;
              }).ok());
  EXPECT_EQ(after, 40);
}

TEST(Execution, SharedMemoryBeginsAsGarbageInEveryBlock) {
  ASSERT_TRUE(Launch({4, 1, 1}, {1, 1, 1}, 4, 1, [] {
                auto* const word = static_cast<uint32_t*>(DynamicShared());
                if (*word != 0xA5A5A5A5u) Fail("not garbage");
                *word = 0;
              }).ok());
}

TEST(Execution, OrderFollowsTheSeed) {
  const auto order = [](uint64_t seed) {
    std::vector<uint32_t> ran;
    EXPECT_TRUE(Launch({4, 1, 1}, {32, 1, 1}, 0, seed, [&] {
                  ran.push_back(blockIdx.x * 32 + threadIdx.x);
                }).ok());
    return ran;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

#if defined(__SANITIZE_ADDRESS__)
TEST(ExecutionDeathTest, AnAccessOutOfBoundsOfSharedMemoryIsReported) {
  EXPECT_DEATH((void)Launch({1, 1, 1}, {32, 1, 1}, 32 * sizeof(int), 1,
                            [] { static_cast<int*>(DynamicShared())[threadIdx.x + 1] = 1; }),
               "heap-buffer-overflow");
}

TEST(ExecutionDeathTest, AnAccessOutOfBoundsOfGlobalMemoryIsReported) {
  const auto global = std::make_unique<int[]>(32);
  EXPECT_DEATH((void)Launch({1, 1, 1}, {32, 1, 1}, 0, 1, [&] { global[threadIdx.x + 1] = 1; }),
               "heap-buffer-overflow");
}
#endif

// --- Warps.

TEST(Warp, LanesMeetInEveryOrder) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    ASSERT_TRUE(Launch({1, 1, 1}, {64, 1, 1}, 0, seed, [] {
                  const uint32_t lane = threadIdx.x % 32;
                  const uint32_t base = threadIdx.x - lane;
                  if (__shfl_sync(kAll, threadIdx.x, 5) != base + 5) Fail("__shfl_sync");
                  if (__shfl_xor_sync(kAll, threadIdx.x, 3) != base + (lane ^ 3)) Fail("xor");
                  const uint32_t up = lane < 2 ? threadIdx.x : threadIdx.x - 2;
                  if (__shfl_up_sync(kAll, threadIdx.x, 2) != up) Fail("up");
                  const uint32_t down = lane > 29 ? threadIdx.x : threadIdx.x + 2;
                  if (__shfl_down_sync(kAll, threadIdx.x, 2) != down) Fail("down");
                  if (__ballot_sync(kAll, lane % 3 == 0) != 0x49249249u) Fail("ballot");
                  if (__any_sync(kAll, lane == 7) != 1) Fail("any");
                  if (__reduce_add_sync(kAll, lane) != 496) Fail("add");
                }).ok());
  }
}

TEST(Warp, DivergedLanesMeetUnderTheirOwnMasks) {
  ASSERT_TRUE(Launch({1, 1, 1}, {32, 1, 1}, 0, 1, [] {
                const bool low = threadIdx.x < 8;
                const uint32_t mask = low ? 0xFFu : 0xFFFFFF00u;
                const uint32_t sum = __reduce_add_sync(mask, 1);
                if (sum != (low ? 8u : 24u)) Fail("sum");
              }).ok());
}

TEST(Warp, ALaneThatNeverComesIsNamedAsWaitedFor) {
  EXPECT_THAT(Failure(Launch({1, 1, 1}, {32, 1, 1}, 0, 1,
                             [] {
                               if (threadIdx.x != 3) __syncwarp();
                             })),
              AllOf(HasSubstr("__syncwarp"), HasSubstr("for ever")));
}

TEST(Warp, DifferentOperationsUnderOneMaskAreRefused) {
  EXPECT_THAT(Failure(Launch({1, 1, 1}, {32, 1, 1}, 0, 1,
                             [] {
                               if (threadIdx.x == 3) {
                                 __any_sync(kAll, 1);
                               } else {
                                 __syncwarp();
                               }
                             })),
              HasSubstr("other lanes of the mask are in"));
}

TEST(Warp, AMaskWithoutTheLaneItselfIsRefused) {
  EXPECT_THAT(Failure(Launch({1, 1, 1}, {32, 1, 1}, 0, 1, [] { __syncwarp(0x7FFFFFFF); })),
              HasSubstr("not in its mask"));
}

TEST(Warp, ReadingALaneOutsideTheMaskIsRefused) {
  EXPECT_THAT(Failure(Launch({1, 1, 1}, {32, 1, 1}, 0, 1,
                             [] {
                               if (threadIdx.x < 16) __shfl_sync(0xFFFF, 1, 20);
                             })),
              HasSubstr("outside its mask"));
}

// --- Asynchronous copies.

TEST(AsyncCopy, ArrivesWhenItIsWaitedFor) {
  alignas(16) static const std::array<uint32_t, 8> kGlobal{1, 2, 3, 4, 5, 6, 7, 8};
  ASSERT_TRUE(Launch({1, 1, 1}, {1, 1, 1}, 32, 1, [] {
                auto* const shared = static_cast<uint32_t*>(DynamicShared());
                cuda::CopyAsync16(shared, kGlobal.data());
                cuda::CommitCopies();
                cuda::CopyAsync16(shared + 4, kGlobal.data() + 4);
                cuda::CommitCopies();
                if (shared[0] == 1) Fail("came without being waited for");
                cuda::WaitForCopies<1>();
                if (shared[3] != 4 || shared[4] == 5) Fail("not just the first group came");
                cuda::WaitForCopies<0>();
                if (shared[7] != 8) Fail("the second group did not come");
              }).ok());
}

TEST(AsyncCopy, WithoutAlignmentIsRefused) {
  alignas(16) static const std::array<uint32_t, 8> kGlobal{};
  EXPECT_THAT(Failure(Launch({1, 1, 1}, {1, 1, 1}, 64, 1,
                             [] { cuda::CopyAsync16(DynamicShared(), kGlobal.data() + 1); })),
              HasSubstr("not aligned"));
}

// --- Arithmetic.

TEST(Integers, DoWhatTheirInstructionsDo) {
  EXPECT_EQ(__byte_perm(0x33221100, 0x77665544, 0x7041), 0x77004411u);
  EXPECT_EQ(__funnelshift_r(0x89ABCDEF, 0x01234567, 8), 0x6789ABCDu);
  EXPECT_EQ(__dp4a(0x80'7F'FF'01 - 0x100000000, 0x02'02'02'02, 10), 10 + 2 * (-128 + 127 - 1 + 1));
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(8), 4);
}

// Fragments are filled and read as the PTX ISA says, independently of how the product is computed.
TEST(MatrixMultiply, Int8IsTheProductOfItsFragments) {
  std::mt19937 random(1);
  std::array<std::array<int, 32>, 16> a{};
  std::array<std::array<int, 8>, 32> b{};
  for (auto& row : a) {
    for (int& x : row) x = static_cast<int8_t>(random());
  }
  for (auto& row : b) {
    for (int& x : row) x = static_cast<int8_t>(random());
  }
  std::array<std::array<int, 8>, 16> d{};
  ASSERT_TRUE(Launch({1, 1, 1}, {32, 1, 1}, 0, 1, [&] {
                const uint32_t group = threadIdx.x / 4;
                const uint32_t in_group = threadIdx.x % 4;
                const auto pack = [](int w, int x, int y, int z) {
                  return static_cast<uint32_t>((w & 255) | (x & 255) << 8 | (y & 255) << 16 |
                                               static_cast<int>(static_cast<uint32_t>(z) << 24));
                };
                const auto from_a = [&](uint32_t row, uint32_t k) {
                  return pack(a[row][k], a[row][k + 1], a[row][k + 2], a[row][k + 3]);
                };
                const auto from_b = [&](uint32_t k) {
                  return pack(b[k][group], b[k + 1][group], b[k + 2][group], b[k + 3][group]);
                };
                const uint32_t k = 4 * in_group;
                const uint32_t fa[4] = {from_a(group, k), from_a(group + 8, k),
                                        from_a(group, k + 16), from_a(group + 8, k + 16)};
                const uint32_t fb[2] = {from_b(k), from_b(k + 16)};
                int fd[4] = {1, 1, 1, 1};
                cuda::MultiplyInt8(fd, fa, fb);
                for (uint32_t i = 0; i < 4; ++i) {
                  d[group + (i < 2 ? 0 : 8)][2 * in_group + i % 2] = fd[i];
                }
              }).ok());
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      int expected = 1;
      for (size_t k = 0; k < 32; ++k) expected += a[row][k] * b[k][column];
      EXPECT_EQ(d[row][column], expected) << row << ", " << column;
    }
  }
}

// One column of ones against bytes that are negative when read as signed.
TEST(MatrixMultiply, UnsignedBytesAreNotSigned) {
  std::array<int, 32> sums{};
  ASSERT_TRUE(Launch({1, 1, 1}, {32, 1, 1}, 0, 1, [&] {
                const uint32_t fa[4] = {0xFF80FF80, 0x01010101, 0xFF80FF80, 0x01010101};
                const uint32_t fb[2] = {0x01010101, 0xFFFFFFFF};
                int fd[4] = {};
                cuda::MultiplyUnsigned8(fd, fa, fb);
                sums[threadIdx.x] = fd[0];
                const uint32_t ones[2] = {0x01010101, 0x01010101};
                int fe[4] = {};
                cuda::MultiplyUnsigned8(fe, fa, ones);
                if (fe[0] != 8 * (2 * 0xFF + 2 * 0x80)) Fail("row g");
                if (fe[2] != 32) Fail("row g + 8");
              }).ok());
  EXPECT_THAT(sums, Each(0));
}

TEST(MatrixMultiply, HalfIsTheProductOfItsFragments) {
  std::mt19937 random(1);
  std::array<std::array<float, 16>, 16> a{};
  std::array<std::array<float, 8>, 16> b{};
  // Small integers, so that every order of summation is exact.
  for (auto& row : a) {
    for (float& x : row) x = static_cast<float>(static_cast<int>(random() % 17) - 8);
  }
  for (auto& row : b) {
    for (float& x : row) x = static_cast<float>(static_cast<int>(random() % 17) - 8);
  }
  std::array<std::array<float, 8>, 16> d{};
  ASSERT_TRUE(Launch({1, 1, 1}, {32, 1, 1}, 0, 1, [&] {
                const uint32_t group = threadIdx.x / 4;
                const uint32_t k = 2 * (threadIdx.x % 4);
                const auto pack = [](float low, float high) {
                  const __half2 both = __floats2half2_rn(low, high);
                  return static_cast<uint32_t>(both.x.bits) | static_cast<uint32_t>(both.y.bits)
                                                                  << 16;
                };
                const uint32_t fa[4] = {pack(a[group][k], a[group][k + 1]),
                                        pack(a[group + 8][k], a[group + 8][k + 1]),
                                        pack(a[group][k + 8], a[group][k + 9]),
                                        pack(a[group + 8][k + 8], a[group + 8][k + 9])};
                const uint32_t fb[2] = {pack(b[k][group], b[k + 1][group]),
                                        pack(b[k + 8][group], b[k + 9][group])};
                float fd[4] = {};
                cuda::MultiplyHalf(fd, fa, fb);
                for (uint32_t i = 0; i < 4; ++i) d[group + (i < 2 ? 0 : 8)][k + i % 2] = fd[i];
              }).ok());
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      float expected = 0;
      for (size_t k = 0; k < 16; ++k) expected += a[row][k] * b[k][column];
      EXPECT_EQ(d[row][column], expected) << row << ", " << column;
    }
  }
}

}  // namespace
}  // namespace quantloom::cuda_emulation
