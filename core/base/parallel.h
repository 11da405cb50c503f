// The project's one parallel-for: a persistent team of threads with a fork-join cost of under a
// microsecond (docs/threads.md).
//
//   ThreadTeam team(2);
//   team.ParallelFor(rows, /*grain=*/16, [&](size_t begin, size_t end, int worker) { ... });
//
// Workers spin for some hundred microseconds after a region, then park, so an idle team uses no
// CPU. Each takes the ranges of its own part of the loop in ascending order, the same part in every
// loop as long, then half of what another has left: a worker sweeps through memory, and finds in
// its caches what it read there last. Which worker runs which range is not deterministic all the
// same: results must not depend on it.
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
  bool WaitForRegion(uint32_t seen);
  void Wake();

  // The region in progress, in one cache line: joining it costs a worker one transfer. Atomic
  // because a late worker may look at it while the next region is being set up; shares then tell it
  // that it is too late.
  struct alignas(64) Region {
    // Region number in the upper half, how many ranges it has in the lower. Workers wait for the
    // number to change.
    std::atomic<uint64_t> ticket{0};
    std::atomic<const Body*> body{nullptr};
    std::atomic<size_t> n{0};
    std::atomic<size_t> grain{1};
  };
  // The ranges [first, end) that a worker has before it, and the region's number: 16, 16 and 32
  // bits. Who shortens it owns what it lost, and the region cannot end before that is done.
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};
  };
  bool TakeFirst(Share& share, uint32_t number, size_t& range);
  bool StealHalf(int worker, uint32_t number);

  Region region_;
  std::vector<Share> shares_;                  // [size()]
  alignas(64) std::atomic<uint32_t> done_{0};  // finished ranges of the region
  alignas(64) std::atomic<int> parked_{0};     // workers that sleep or are about to
  std::atomic<int> wakes_{0};                  // changes to wake them
  std::atomic<bool> stop_{false};
  std::mutex caller_mutex_;
  std::vector<std::thread> threads_;
};

}  // namespace quantloom
