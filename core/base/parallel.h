// The project's one parallel-for: a persistent team of threads with a fork-join cost of about a
// microsecond.
//
//   ThreadTeam team(2);
//   team.ParallelFor(rows, /*grain=*/16, [&](size_t begin, size_t end, int worker) { ... });
//
// Workers spin for some tens of microseconds after a region, then park, so an idle team uses no
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

  // Calls body on ranges that partition [0, n), each a multiple of `grain` long except the last;
  // returns when all are done. `worker` is in [0, size()). Ranges go to whichever worker is free.
  void ParallelFor(size_t n, size_t grain, Body body);

 private:
  void WorkerLoop(int worker);
  void RunRanges(int worker);
  bool WaitForRegion(int seen);

  // The region in progress. Atomic because a late worker may look at it while the next region is
  // being set up; the ticket then tells it that it is too late.
  std::atomic<const Body*> body_{nullptr};
  std::atomic<size_t> n_{0};
  std::atomic<size_t> grain_{1};
  std::atomic<uint32_t> ranges_{0};

  std::mutex caller_mutex_;
  // Region number in the upper half, index of the next range to take in the lower. Who advances it
  // owns that range, and the region cannot end before the range is done.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};  // finished ranges of the region
  alignas(64) std::atomic<int> epoch_{0};      // changes with each region: what workers wait for
  std::atomic<int> parked_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace quantloom
