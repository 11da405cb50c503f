#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "core/base/dtype.h"
#include "core/base/file.h"
#include "core/base/float16.h"
#include "core/base/parallel.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

TEST(Float16, EveryHalfSurvivesARoundTrip) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float value = HalfToFloat(static_cast<uint16_t>(half));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      ASSERT_EQ(FloatToHalf(value), half) << value;
    }
  }
}

TEST(Float16, RoundsToNearestEven) {
  // Neighbours around 1: spacing 2^-10; the tie 1 + 2^-11 goes to the even mantissa, just above it
  // goes up.
  EXPECT_EQ(FloatToHalf(1.0f + 0x1p-11f), FloatToHalf(1.0f));
  EXPECT_EQ(FloatToHalf(1.0f + 0x1.8p-11f), FloatToHalf(1.0f + 0x1p-10f));
  EXPECT_EQ(FloatToHalf(1.0f + 0x3p-11f), FloatToHalf(1.0f + 0x1p-9f));
  EXPECT_EQ(FloatToHalf(65504.0f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65519.9f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0);
  EXPECT_EQ(FloatToHalf(0x1.8p-25f), 1);
}

TEST(BFloat16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(BFloat16ToFloat(FloatToBFloat16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(BFloat16ToFloat(FloatToBFloat16(1.0f + 0x3p-8f)), 1.0f + 0x1p-6f);
  EXPECT_TRUE(
      std::isnan(BFloat16ToFloat(FloatToBFloat16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(DType, NamesRoundTrip) {
  for (DType dtype :
       {DType::kU8, DType::kI8, DType::kF16, DType::kBF16, DType::kF32, DType::kBool}) {
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
  }
  EXPECT_EQ(DTypeFromName("F8"), std::nullopt);
}

TEST(Sha256, MatchesThePublishedVector) {
  const std::string text = "abc";
  EXPECT_EQ(Sha256::Of({reinterpret_cast<const uint8_t*>(text.data()), text.size()}),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

class TeamSizes : public ::testing::TestWithParam<int> {};

TEST_P(TeamSizes, EveryIndexRunsOnceInEveryRegion) {
  ThreadTeam team(GetParam());
  EXPECT_EQ(team.size(), GetParam());
  for (size_t n : {0, 1, 7, 1000}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::vector<std::atomic<int>> seen(n);
      team.ParallelFor(n, 3, [&](size_t begin, size_t end, int worker) {
        EXPECT_LT(worker, team.size());
        for (size_t i = begin; i < end; ++i) seen[i].fetch_add(1);
      });
      for (const auto& count : seen) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST_P(TeamSizes, NestedAndConcurrentRegionsComplete) {
  ThreadTeam team(GetParam());
  std::atomic<size_t> total{0};
  auto run = [&] {
    for (int repeat = 0; repeat < 100; ++repeat) {
      team.ParallelFor(8, 1, [&](size_t begin, size_t end, int) {
        team.ParallelFor(end - begin, 1, [&](size_t b, size_t e, int) { total.fetch_add(e - b); });
      });
    }
  };
  std::thread other(run);
  run();
  other.join();
  EXPECT_EQ(total.load(), 1600u);
}

TEST(ThreadTeam, WorkersBeginWithTheirOwnPartsAndGoOnInAscendingOrder) {
  constexpr size_t kRanges = 8;
  ThreadTeam team(2);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::vector<size_t> ranges[2];
    std::atomic<size_t> begun{0};
    team.ParallelFor(10 * kRanges, 10, [&](size_t begin, size_t, int worker) {
      std::vector<size_t>& own = ranges[worker];
      own.push_back(begin / 10);
      // In step, so that neither is done before the other and takes some of its part.
      begun.fetch_add(1);
      while (begun.load() < 2 * own.size()) std::this_thread::yield();
    });
    EXPECT_THAT(ranges[0], ::testing::ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(ranges[1], ::testing::ElementsAre(4, 5, 6, 7));
  }
}

TEST(ThreadTeam, AWorkerThatIsKeptWaitingDelaysItsOwnRangeAlone) {
  constexpr size_t kRanges = 100;
  ThreadTeam team(3);
  std::atomic<size_t> done{0};
  team.ParallelFor(kRanges, 1, [&](size_t begin, size_t, int) {
    // The others must do everything else, also what the third worker would have done.
    while (begin == kRanges * 2 / 3 && done.load() < kRanges - 1) std::this_thread::yield();
    done.fetch_add(1);
  });
  EXPECT_EQ(done.load(), kRanges);
}

TEST(ThreadTeam, MoreRangesThanCanBeCountedAreJoined) {
  ThreadTeam team(2);
  constexpr size_t kItems = 700'001, kGrain = 3;
  std::atomic<size_t> items{0}, ranges{0};
  team.ParallelFor(kItems, kGrain, [&](size_t begin, size_t end, int) {
    EXPECT_EQ(begin % kGrain, 0u);
    items.fetch_add(end - begin);
    ranges.fetch_add(1);
  });
  EXPECT_EQ(items.load(), kItems);
  EXPECT_LE(ranges.load(), 65'535u);
  EXPECT_GE(ranges.load(), 30'000u);
}

// States of the process's other threads, as /proc names them: R for one that runs or spins, S for
// one that sleeps.
std::string StatesOfOtherThreads() {
  std::string states;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == std::to_string(getpid())) continue;
    std::ifstream stat(task.path() / "stat");
    std::string number, name, state;
    if (stat >> number >> name >> state) states += state;
  }
  return states;
}

TEST_P(TeamSizes, AnIdleTeamSleepsAndWakes) {
  ThreadTeam team(GetParam());
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::atomic<int> ran{0};
    team.ParallelFor(100, 1, [&](size_t begin, size_t end, int) {
      ran.fetch_add(static_cast<int>(end - begin));
    });
    EXPECT_EQ(ran.load(), 100);
    // Sanitizers and emulators have threads of their own, asleep as well.
    std::string states = StatesOfOtherThreads();
    for (int wait = 0; wait < 2000 && states != std::string(states.size(), 'S'); ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      states = StatesOfOtherThreads();
    }
    EXPECT_THAT(states, ::testing::Each('S'));
    EXPECT_GE(states.size(), static_cast<size_t>(GetParam()) - 1);
  }
}

TEST(ThreadTeam, PinnedWorkersHaveAProcessorEachOfThoseAllowed) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  const int processors = CPU_COUNT(&allowed);
  ThreadTeam too_many(processors + 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(too_many.PinWorkers()));
  if (processors < 2) GTEST_SKIP() << "one processor: no worker to pin";
  ThreadTeam team(processors);
  ASSERT_TRUE(team.PinWorkers().ok());
  // Every worker must show up: all wait for each other.
  std::vector<cpu_set_t> masks(static_cast<size_t>(processors));
  std::atomic<int> present{0};
  team.ParallelFor(masks.size(), 1, [&](size_t, size_t, int worker) {
    sched_getaffinity(0, sizeof(cpu_set_t), &masks[static_cast<size_t>(worker)]);
    present.fetch_add(1);
    while (present.load() < processors) std::this_thread::yield();
  });
  EXPECT_TRUE(CPU_EQUAL(&masks[0], &allowed));
  cpu_set_t used;
  CPU_ZERO(&used);
  for (size_t worker = 1; worker < masks.size(); ++worker) {
    EXPECT_EQ(CPU_COUNT(&masks[worker]), 1);
    CPU_OR(&used, &used, &masks[worker]);
  }
  EXPECT_EQ(CPU_COUNT(&used), processors - 1);
  CPU_AND(&used, &used, &allowed);
  EXPECT_EQ(CPU_COUNT(&used), processors - 1);
}

INSTANTIATE_TEST_SUITE_P(Sizes, TeamSizes, ::testing::Values(1, 2, 5));

class FileTest : public ::testing::Test {
 protected:
  testing::TemporaryDirectory temporary_;
  const std::filesystem::path directory_ = temporary_.path();
};

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNoTemporary) {
  const auto path = directory_ / "a.json";
  ASSERT_TRUE(WriteFileAtomically(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomically(path, "two").ok());
  EXPECT_EQ(ReadFile(path).value(), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_),
                          std::filesystem::directory_iterator()),
            1);
}

TEST_F(FileTest, ErrorsNameThePathAndHaveTheirCode) {
  EXPECT_EQ(MappedFile::Open(directory_ / "missing").status().code(), absl::StatusCode::kNotFound);
  const absl::Status directory = MappedFile::Open(directory_).status();
  EXPECT_EQ(directory.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(directory.message()), ::testing::HasSubstr(directory_.string()));
  EXPECT_EQ(WriteFileAtomically(directory_ / "no" / "file", "x").code(),
            absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteFileAtomically(directory_ / "big", "12345").ok());
  EXPECT_EQ(ReadFile(directory_ / "big", 4).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(FileTest, AFullDiskIsResourceExhausted) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  auto writer = FileWriter::Create("/dev/full");
  ASSERT_TRUE(writer.ok());
  const uint8_t byte = 1;
  EXPECT_EQ((*writer)->Append({&byte, 1}).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(FileTest, AnEmptyFileMapsToNothing) {
  std::ofstream(directory_ / "empty").close();
  EXPECT_TRUE(MappedFile::Open(directory_ / "empty").value()->bytes().empty());
}

TEST(Status, AnnotateKeepsCodeAndAddsContext) {
  const absl::Status status = Annotate(absl::DataLossError("short"), "tensor 'a'");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "tensor 'a': short");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
}

}  // namespace
}  // namespace quantloom
