// What a parallel region costs its caller: an empty one of as many ranges as threads, at once after
// the last and after pauses as they occur between a model's operators (microseconds) and between
// requests (from 100 us on, when the team has parked). Arguments: threads, pause in microseconds.
#include <chrono>
#include <cstddef>

#include "benchmark/benchmark.h"
#include "core/base/parallel.h"

namespace quantloom {
namespace {

using Clock = std::chrono::steady_clock;

void BM_EmptyRegion(benchmark::State& state) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  const auto pause = std::chrono::microseconds(state.range(1));
  const auto size = static_cast<size_t>(team.size());
  for (auto _ : state) {
    for (const auto end = Clock::now() + pause; Clock::now() < end;) {
    }
    const auto begin = Clock::now();
    team.ParallelFor(size, 1, [](size_t first, size_t, int) { benchmark::DoNotOptimize(first); });
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count());
  }
}
BENCHMARK(BM_EmptyRegion)
    ->ArgsProduct({{1, 2}, {1, 10, 100, 1000}})
    ->ArgNames({"threads", "pause_us"})
    ->UseManualTime()
    ->Iterations(5000)  // the pauses are not counted
    ->Unit(benchmark::kMicrosecond);

// Back to back, without the clock's own cost (some 25 ns a reading).
void BM_EmptyRegionsBackToBack(benchmark::State& state) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  const auto size = static_cast<size_t>(team.size());
  for (auto _ : state) {
    team.ParallelFor(size, 1, [](size_t first, size_t, int) { benchmark::DoNotOptimize(first); });
  }
}
BENCHMARK(BM_EmptyRegionsBackToBack)->Arg(1)->Arg(2)->ArgName("threads")->UseRealTime();

}  // namespace
}  // namespace quantloom

BENCHMARK_MAIN();
