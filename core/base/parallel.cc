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

// As many as a share can count.
constexpr size_t kMaxRanges = 0xFFFF;

// What a share says, in one word (parallel.h).
struct Left {
  uint32_t number;  // of the region
  uint16_t first, end;

  explicit Left(uint64_t word)
      : number(static_cast<uint32_t>(word >> 32)),
        first(static_cast<uint16_t>(word >> 16)),
        end(static_cast<uint16_t>(word)) {}
  Left(uint32_t region, size_t first_range, size_t end_range)
      : number(region),
        first(static_cast<uint16_t>(first_range)),
        end(static_cast<uint16_t>(end_range)) {}
  uint64_t word() const { return uint64_t{number} << 32 | uint64_t{first} << 16 | end; }
};

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

ThreadTeam::ThreadTeam(int threads)
    : shares_(static_cast<size_t>(threads > 0 ? threads : AvailableProcessors())) {
  const auto count = static_cast<int>(shares_.size());
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

bool ThreadTeam::WaitForRegion(uint32_t seen) {
  const auto has_another = [&] { return region_.ticket.load() >> 32 != seen; };
  while (true) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (stop_.load(std::memory_order_relaxed)) return false;
      if (has_another()) return true;
      Pause();
    }
    const int wakes = wakes_.load();
    // Either this sees the region that a caller has just opened, or the caller sees this.
    parked_.fetch_add(1);
    if (!has_another() && !stop_.load()) wakes_.wait(wakes);
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

// The first range that is left of `share`.
bool ThreadTeam::TakeFirst(Share& share, uint32_t number, size_t& range) {
  uint64_t word = share.left.load(std::memory_order_acquire);
  while (true) {
    const Left left(word);
    if (left.number != number || left.first == left.end) return false;
    range = left.first;
    // Fails when another took some.
    if (share.left.compare_exchange_weak(word, Left(number, range + 1, left.end).word(),
                                         std::memory_order_acq_rel, std::memory_order_acquire)) {
      return true;
    }
  }
}

// The rear half of what one of the others has left becomes the worker's own share, which is empty.
bool ThreadTeam::StealHalf(int worker, uint32_t number) {
  const auto own = static_cast<size_t>(worker);
  for (size_t i = 1; i < shares_.size(); ++i) {
    Share& victim = shares_[(own + i) % shares_.size()];
    uint64_t word = victim.left.load(std::memory_order_acquire);
    while (true) {
      const Left left(word);
      if (left.number != number) return false;  // the region is over
      if (left.first == left.end) break;
      const size_t middle = left.first + (left.end - left.first) / 2u;
      if (victim.left.compare_exchange_weak(word, Left(number, left.first, middle).word(),
                                            std::memory_order_acq_rel, std::memory_order_acquire)) {
        shares_[own].left.store(Left(number, middle, left.end).word(), std::memory_order_release);
        return true;
      }
    }
  }
  return false;
}

void ThreadTeam::RunRanges(int worker) {
  const uint64_t ticket = region_.ticket.load(std::memory_order_acquire);
  const auto number = static_cast<uint32_t>(ticket >> 32), ranges = static_cast<uint32_t>(ticket);
  Share& share = shares_[static_cast<size_t>(worker)];
  do {
    uint32_t done = 0;
    for (size_t range; TakeFirst(share, number, range); ++done) {
      const size_t n = region_.n.load(std::memory_order_relaxed);
      const size_t grain = region_.grain.load(std::memory_order_relaxed);
      const size_t begin = range * grain;
      (*region_.body.load(std::memory_order_relaxed))(begin, std::min(begin + grain, n), worker);
    }
    if (done > 0 && done_.fetch_add(done, std::memory_order_acq_rel) + done == ranges) {
      done_.notify_one();
    }
  } while (StealHalf(worker, number));
}

void ThreadTeam::ParallelFor(size_t n, size_t grain, Body body) {
  if (n == 0) return;
  grain = std::max(grain, size_t{1});
  // Fewer, longer ranges if there would be too many; still multiples of the grain.
  grain *= (n - 1) / grain / kMaxRanges + 1;
  if (in_region || threads_.empty() || n <= grain) {
    body(0, n, 0);
    return;
  }
  std::lock_guard<std::mutex> lock(caller_mutex_);
  const size_t ranges = (n - 1) / grain + 1;
  const uint32_t number =
      static_cast<uint32_t>(region_.ticket.load(std::memory_order_relaxed) >> 32) + 1;
  region_.body.store(&body, std::memory_order_relaxed);
  region_.n.store(n, std::memory_order_relaxed);
  region_.grain.store(grain, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  // A late worker finds shares of another number than its region's.
  for (size_t i = 0; i < shares_.size(); ++i) {
    const Left share(number, ranges * i / shares_.size(), ranges * (i + 1) / shares_.size());
    shares_[i].left.store(share.word(), std::memory_order_release);
  }
  region_.ticket.store(uint64_t{number} << 32 | ranges);
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
