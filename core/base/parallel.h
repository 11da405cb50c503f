// The project's one parallel-for: a persistent team of threads with a fork-join cost of under a
// microsecond (docs/threads.md).
//
//   ThreadTeam team(2);
//   team.ParallelFor(rows, /*grain=*/16, [&](size_t begin, size_t end, int worker) { ... });
//
// Workers spin for some hundred microseconds after a region, then park, so an idle team uses no
// CPU. Which worker runs which range is not deterministic: results must not depend on it.
//
// A region ends when its ranges are done, not when every worker has shown up: a worker that the
// operating system keeps waiting delays nobody unless it sits inside a range.
//
// Thread-safety: one region runs at a time; ParallelFor from several threads is serialized.
// ParallelFor inside a region's function runs that inner loop on the calling thread alone, as
// worker 0.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace quantloom {

// Processors this process may use: the smaller of its affinity mask and its cgroup CPU quota, at
// least 1.
int AvailableProcessors();

class ThreadTeam {
 public:
  using Body = absl::FunctionRef<void(size_t begin, size_t end, int worker)>;

  // `threads` counts the calling thread; 0 means AvailableProcessors().
  explicit ThreadTeam(int threads = 0);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Binds worker w, from 1 on, to the w-th processor of the calling thread's affinity mask, counted
  // from 0. Callers stay where the operating system puts them. FAILED_PRECONDITION when the mask
  // has fewer than size() processors: nothing is bound then.
  absl::Status PinWorkers();

  // Calls body on ranges that partition [0, n), each a multiple of `grain` long except the last;
  // returns when all are done. `worker` is in [0, size()). Ranges go to whichever worker is free.
  void ParallelFor(size_t n, size_t grain, Body body);

 private:
  void WorkerLoop(int worker);
  void RunRanges(int worker);
  bool HasRegionAfter(uint32_t seen) const;
  bool WaitForRegion(uint32_t seen);
  void Wake();

  // The region in progress, in one cache line: joining it costs a worker one transfer. Atomic
  // because a late worker may look at it while the next region is being set up; the ticket then
  // tells it that it is too late.
  struct alignas(64) Region {
    // Region number in the upper half, index of the next range to take in the lower. Who advances
    // it owns that range, and the region cannot end before the range is done. Workers wait for the
    // number to change.
    std::atomic<uint64_t> ticket{0};
    std::atomic<const Body*> body{nullptr};
    std::atomic<size_t> n{0};
    std::atomic<size_t> grain{1};
    std::atomic<uint32_t> ranges{0};
  };
  Region region_;
  alignas(64) std::atomic<uint32_t> done_{0};  // finished ranges of the region
  alignas(64) std::atomic<int> parked_{0};     // workers that sleep or are about to
  std::atomic<int> wakes_{0};                  // changes to wake them
  std::atomic<bool> stop_{false};
  std::mutex caller_mutex_;
  std::vector<std::thread> threads_;
};

}  // namespace quantloom
