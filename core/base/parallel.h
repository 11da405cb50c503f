// The project's one parallel-for: a persistent team of threads with a fork-join cost of about a
// microsecond.
//
//   ThreadTeam team(2);
//   team.ParallelFor(rows, /*grain=*/16, [&](size_t begin, size_t end, int worker) { ... });
//
// Workers spin for some tens of microseconds after a region, then park, so an idle team uses no
// CPU. Which worker runs which range is not deterministic: results must not depend on it.
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

  struct Region {
    const Body* body = nullptr;
    size_t n = 0;
    size_t grain = 1;
  };

  std::mutex caller_mutex_;
  Region region_;
  alignas(64) std::atomic<size_t> next_{0};
  alignas(64) std::atomic<int> epoch_{0};    // one more for each region
  alignas(64) std::atomic<int> running_{0};  // workers that have not finished the current region
  std::atomic<int> parked_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace quantloom
