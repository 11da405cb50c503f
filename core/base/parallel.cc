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

// A ticket's index while no range can be taken.
constexpr uint64_t kClosed = 0xFFFFFFFF;

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
  }
}

void ThreadTeam::RunRanges(int worker) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (true) {
    const uint32_t ranges = ranges_.load(std::memory_order_acquire);
    const auto index = static_cast<uint32_t>(ticket);
    if (index >= ranges) return;
    // Fails when another took the range, or when `ranges` was already the next region's.
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      continue;
    }
    const size_t n = n_.load(std::memory_order_relaxed);
    const size_t grain = grain_.load(std::memory_order_relaxed);
    const size_t begin = index * grain;
    (*body_.load(std::memory_order_relaxed))(begin, std::min(begin + grain, n), worker);
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranges) done_.notify_one();
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadTeam::ParallelFor(size_t n, size_t grain, Body body) {
  if (n == 0) return;
  grain = std::max({grain, size_t{1}, n >> 31});
  if (in_region || threads_.empty() || n <= grain) {
    body(0, n, 0);
    return;
  }
  std::lock_guard<std::mutex> lock(caller_mutex_);
  const auto ranges = static_cast<uint32_t>((n + grain - 1) / grain);
  // Close the old ticket before the first field changes: a late worker that sees the new number of
  // ranges (released below) then also sees that its ticket is void.
  const uint64_t region = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(region << 32 | kClosed, std::memory_order_relaxed);
  body_.store(&body, std::memory_order_relaxed);
  n_.store(n, std::memory_order_relaxed);
  grain_.store(grain, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  ranges_.store(ranges, std::memory_order_release);
  ticket_.store(region << 32, std::memory_order_release);
  epoch_.fetch_add(1);
  if (parked_.load() > 0) epoch_.notify_all();
  in_region = true;
  RunRanges(0);
  in_region = false;
  for (uint32_t spin = 0, done; (done = done_.load(std::memory_order_acquire)) != ranges;) {
    if (++spin < kSpins) {
      Pause();
    } else {
      done_.wait(done);
    }
  }
}

}  // namespace quantloom
