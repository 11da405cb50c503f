#include "core/base/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

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
  Wake();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status ThreadTeam::PinWorkers() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return absl::ErrnoToStatus(errno, "sched_getaffinity");
  }
  if (CPU_COUNT(&allowed) < size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot give each of ", size(), " threads a processor: the affinity mask has ",
                     CPU_COUNT(&allowed)));
  }
  int processor = 0;
  while (!CPU_ISSET(processor, &allowed)) ++processor;  // left to callers
  for (std::thread& thread : threads_) {
    do ++processor;
    while (!CPU_ISSET(processor, &allowed));
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    const int error = pthread_setaffinity_np(thread.native_handle(), sizeof(one), &one);
    if (error != 0) return absl::ErrnoToStatus(error, "pthread_setaffinity_np");
  }
  return absl::OkStatus();
}

bool ThreadTeam::HasRegionAfter(uint32_t seen) const {
  const uint64_t ticket = region_.ticket.load();
  return ticket >> 32 != seen && static_cast<uint32_t>(ticket) != kClosed;
}

bool ThreadTeam::WaitForRegion(uint32_t seen) {
  while (true) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (stop_.load(std::memory_order_relaxed)) return false;
      if (HasRegionAfter(seen)) return true;
      Pause();
    }
    const int wakes = wakes_.load();
    // Either this sees the region that a caller has just opened, or the caller sees this.
    parked_.fetch_add(1);
    if (!HasRegionAfter(seen) && !stop_.load()) wakes_.wait(wakes);
    parked_.fetch_sub(1);
  }
}

void ThreadTeam::Wake() {
  wakes_.fetch_add(1);
  wakes_.notify_all();
}

void ThreadTeam::WorkerLoop(int worker) {
  in_region = true;  // a nested ParallelFor runs on this thread alone
  uint32_t seen = 0;
  while (WaitForRegion(seen)) {
    seen = static_cast<uint32_t>(region_.ticket.load() >> 32);
    RunRanges(worker);
  }
}

void ThreadTeam::RunRanges(int worker) {
  uint64_t ticket = region_.ticket.load(std::memory_order_acquire);
  while (true) {
    const uint32_t ranges = region_.ranges.load(std::memory_order_acquire);
    const auto index = static_cast<uint32_t>(ticket);
    if (index >= ranges) return;
    // Fails when another took the range, or when `ranges` was already the next region's.
    if (!region_.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                              std::memory_order_acquire)) {
      continue;
    }
    const size_t n = region_.n.load(std::memory_order_relaxed);
    const size_t grain = region_.grain.load(std::memory_order_relaxed);
    const size_t begin = index * grain;
    (*region_.body.load(std::memory_order_relaxed))(begin, std::min(begin + grain, n), worker);
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranges) done_.notify_one();
    ticket = region_.ticket.load(std::memory_order_acquire);
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
  const uint64_t number = (region_.ticket.load(std::memory_order_relaxed) >> 32) + 1;
  region_.ticket.store(number << 32 | kClosed, std::memory_order_relaxed);
  region_.body.store(&body, std::memory_order_relaxed);
  region_.n.store(n, std::memory_order_relaxed);
  region_.grain.store(grain, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  region_.ranges.store(ranges, std::memory_order_release);
  region_.ticket.store(number << 32);
  if (parked_.load() > 0) Wake();
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
