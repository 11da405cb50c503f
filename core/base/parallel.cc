#include "core/base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quantloom {
namespace {

// About 50 microseconds of polling: longer than the gap between two operators of a small model's
// layer, far shorter than the gap between two requests.
constexpr int kSpins = 4000;

thread_local bool in_region = false;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

int AvailableProcessors() {
  int processors = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) processors = CPU_COUNT(&set);
  // cgroup v2: "<quota microseconds or 'max'> <period>".
  std::ifstream cpu_max("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (cpu_max >> quota >> period && quota != "max" && period > 0) {
    processors = std::min(processors, static_cast<int>(std::stod(quota) / period));
  }
  return std::max(processors, 1);
}

ThreadTeam::ThreadTeam(int threads) {
  const int count = threads > 0 ? threads : AvailableProcessors();
  for (int worker = 1; worker < count; ++worker)
    threads_.emplace_back([this, worker] { WorkerLoop(worker); });
}

ThreadTeam::~ThreadTeam() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool ThreadTeam::WaitForRegion(int seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (epoch_.load(std::memory_order_acquire) != seen)
      return !stop_.load(std::memory_order_relaxed);
    Pause();
  }
  parked_.fetch_add(1);
  epoch_.wait(seen);
  parked_.fetch_sub(1);
  return !stop_.load();
}

void ThreadTeam::WorkerLoop(int worker) {
  in_region = true;  // a nested ParallelFor runs on this thread alone
  int seen = 0;
  while (WaitForRegion(seen)) {
    seen = epoch_.load(std::memory_order_acquire);
    RunRanges(worker);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ThreadTeam::RunRanges(int worker) {
  const Region& region = region_;
  while (true) {
    const size_t begin = next_.fetch_add(region.grain, std::memory_order_relaxed);
    if (begin >= region.n) return;
    (*region.body)(begin, std::min(begin + region.grain, region.n), worker);
  }
}

void ThreadTeam::ParallelFor(size_t n, size_t grain, Body body) {
  if (n == 0) return;
  grain = std::max<size_t>(grain, 1);
  if (in_region || threads_.empty() || n <= grain) {
    body(0, n, 0);
    return;
  }
  std::lock_guard<std::mutex> lock(caller_mutex_);
  region_ = {&body, n, grain};
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1);
  if (parked_.load() > 0) epoch_.notify_all();
  in_region = true;
  RunRanges(0);
  in_region = false;
  for (int spin = 0, left; (left = running_.load(std::memory_order_acquire)) != 0;) {
    if (++spin < kSpins) {
      Pause();
    } else {
      running_.wait(left);
    }
  }
}

}  // namespace quantloom
