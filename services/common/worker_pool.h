// Threads for work that must not run on gRPC's: tokenization, scoring, loading. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace quantloom {

class WorkerPool {
 public:
  static constexpr size_t kUnbounded = std::numeric_limits<size_t>::max();

  // At most `max_queued` tasks wait for one of `threads` threads.
  WorkerPool(int threads, size_t max_queued);
  // Runs what is still queued, then joins.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False, and the task is dropped, when the queue is full. Tasks start in the order they came.
  bool TryRun(std::function<void()> task);

 private:
  void RunTasks();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quantloom
