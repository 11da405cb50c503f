#include "tests/cuda/emulation/execution.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cuda/emulation/fiber.h"

namespace quantloom::cuda_emulation {
namespace {

constexpr uint8_t kGarbage = 0xA5;

enum class Waits : uint8_t { kNo, kAtBarrier, kInWarp };

struct Copy {
  void* shared;
  const void* global;
  size_t bytes;
};

struct Thread {
  Fiber fiber;
  Position position;
  uint32_t warp = 0;
  uint32_t lane = 0;
  Waits waits = Waits::kNo;
  const char* operation = "";  // what it waits in
  std::vector<Copy> uncommitted;
  std::deque<std::vector<Copy>> groups;
};

// Lanes that have come to an operation which others of its mask have not come to yet.
struct Meeting {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  const char* operation = nullptr;
  std::array<void*, kWarpLanes> arguments{};
};

std::string Name(const Dim3& index) {
  return absl::StrCat("(", index.x, ", ", index.y, ", ", index.z, ")");
}

Dim3 Unflatten(uint64_t index, const Dim3& shape) {
  return {static_cast<uint32_t>(index % shape.x), static_cast<uint32_t>(index / shape.x % shape.y),
          static_cast<uint32_t>(index / shape.x / shape.y)};
}

// Unwinds the thread of a kernel that failed.
struct Failure {
  std::string what;
};

class Grid {
 public:
  Grid(Dim3 grid, Dim3 block, size_t shared_bytes, uint64_t seed)
      : grid_(grid),
        block_(block),
        shared_bytes_(shared_bytes),
        random_(seed),
        threads_(block.count()),
        meetings_((block.count() + kWarpLanes - 1) / kWarpLanes) {}

  absl::Status RunBlocks(const std::function<void()>& body) {
    std::vector<uint64_t> order(grid_.count());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    for (const uint64_t block : order) {
      if (absl::Status status = RunBlock(Unflatten(block, grid_), body); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  Thread& running() { return *running_; }
  void* shared() { return shared_.get(); }

  void BlockBarrier() {
    running_->operation = "__syncthreads";
    running_->waits = Waits::kAtBarrier;
    running_->fiber.Yield();
  }

  void MeetWarp(uint32_t mask, const char* operation, void* argument, Compute compute) {
    Thread& lane = *running_;
    if ((mask >> lane.lane & 1) == 0)
      Fail(absl::StrCat(operation, ": the lane is not in its mask"));
    std::vector<Meeting>& meetings = meetings_[lane.warp];
    auto meeting = std::find_if(meetings.begin(), meetings.end(),
                                [&](const Meeting& other) { return other.mask == mask; });
    if (meeting == meetings.end()) {
      meetings.push_back({.mask = mask, .operation = operation});
      meeting = meetings.end() - 1;
    }
    if (std::strcmp(meeting->operation, operation) != 0) {
      Fail(absl::StrCat(operation, ": other lanes of the mask are in ", meeting->operation));
    }
    meeting->arrived |= uint32_t{1} << lane.lane;
    meeting->arguments[lane.lane] = argument;
    if (meeting->arrived != mask) {
      lane.operation = operation;
      lane.waits = Waits::kInWarp;
      lane.fiber.Yield();
      return;
    }
    const Meeting complete = *meeting;
    meetings.erase(meeting);
    compute(mask, complete.arguments.data());
    for (Thread& other : threads_) {
      if (other.warp == lane.warp && (mask >> other.lane & 1) != 0) other.waits = Waits::kNo;
    }
  }

 private:
  void Prepare(const Dim3& block_index, const std::function<void()>& body) {
    shared_.reset(new uint8_t[shared_bytes_]);
    std::memset(shared_.get(), kGarbage, shared_bytes_);
    for (auto& meetings : meetings_) meetings.clear();
    for (size_t i = 0; i < threads_.size(); ++i) {
      Thread& thread = threads_[i];
      thread.position = {grid_, block_, block_index, Unflatten(i, block_)};
      thread.warp = static_cast<uint32_t>(i / kWarpLanes);
      thread.lane = static_cast<uint32_t>(i % kWarpLanes);
      thread.waits = Waits::kNo;
      thread.uncommitted.clear();
      thread.groups.clear();
      thread.fiber.Start([this, &body] { RunThread(body); });
    }
  }

  void RunThread(const std::function<void()>& body) {
    try {
      body();
    } catch (const Failure& failure) {
      const Position& here = running_->position;
      failure_ = absl::AbortedError(absl::StrCat("block ", Name(here.block_index), ", thread ",
                                                 Name(here.thread_index), ": ", failure.what));
    }
  }

  absl::Status RunBlock(const Dim3& block_index, const std::function<void()>& body) {
    Prepare(block_index, body);
    std::vector<Thread*> ready;
    for (;;) {
      ready.clear();
      for (Thread& thread : threads_) {
        if (!thread.fiber.ended() && thread.waits == Waits::kNo) ready.push_back(&thread);
      }
      if (ready.empty()) {
        bool ended = true;
        for (const Thread& thread : threads_) ended &= thread.fiber.ended();
        if (ended) return absl::OkStatus();
        if (absl::Status status = OpenBarrier(); !status.ok()) return status;
        continue;
      }
      std::shuffle(ready.begin(), ready.end(), random_);
      for (Thread* thread : ready) {
        running_ = thread;
        thread->fiber.Resume();
        if (!failure_.ok()) return failure_;
      }
    }
  }

  // Nobody can run: all that have not ended must be at the barrier.
  absl::Status OpenBarrier() {
    for (const Thread& thread : threads_) {
      if (thread.waits == Waits::kInWarp && !thread.fiber.ended()) {
        return absl::AbortedError(absl::StrCat("block ", Name(thread.position.block_index),
                                               ", thread ", Name(thread.position.thread_index),
                                               ": waits for ever in ", thread.operation,
                                               ": lanes of its mask have ended or are elsewhere"));
      }
    }
    for (Thread& thread : threads_) thread.waits = Waits::kNo;
    return absl::OkStatus();
  }

  const Dim3 grid_;
  const Dim3 block_;
  const size_t shared_bytes_;
  std::mt19937_64 random_;
  std::vector<Thread> threads_;
  std::vector<std::vector<Meeting>> meetings_;  // by warp
  std::unique_ptr<uint8_t[]> shared_;
  Thread* running_ = nullptr;
  absl::Status failure_;
};

Grid* current = nullptr;
uint64_t launches = 0;

}  // namespace

absl::Status CheckShape(Dim3 grid, Dim3 block, size_t dynamic_shared_bytes) {
  if (grid.count() == 0 || block.count() == 0 || block.count() > kMaxBlockThreads ||
      dynamic_shared_bytes > kMaxSharedBytes) {
    return absl::InvalidArgumentError(absl::StrCat("cannot launch grid ", Name(grid), ", block ",
                                                   Name(block), ", ", dynamic_shared_bytes,
                                                   " bytes of shared memory"));
  }
  return absl::OkStatus();
}

absl::Status Launch(Dim3 grid, Dim3 block, size_t dynamic_shared_bytes, uint64_t seed,
                    const std::function<void()>& thread) {
  if (absl::Status status = CheckShape(grid, block, dynamic_shared_bytes); !status.ok()) {
    return status;
  }
  Grid launch(grid, block, dynamic_shared_bytes, seed);
  current = &launch;
  ++launches;
  absl::Status status = launch.RunBlocks(thread);
  current = nullptr;
  return status;
}

uint64_t Launches() { return launches; }

const Position& Here() { return current->running().position; }
uint32_t Lane() { return current->running().lane; }
void* DynamicShared() { return current->shared(); }
void BlockBarrier() { current->BlockBarrier(); }
void Fail(std::string what) { throw Failure{std::move(what)}; }

void MeetWarp(uint32_t mask, const char* operation, void* argument, Compute compute) {
  current->MeetWarp(mask, operation, argument, compute);
}

void CopyAsync(void* shared, const void* global, size_t bytes) {
  current->running().uncommitted.push_back({shared, global, bytes});
}

void CommitCopies() {
  Thread& thread = current->running();
  thread.groups.push_back(std::exchange(thread.uncommitted, {}));
}

void WaitForCopies(size_t groups_left) {
  Thread& thread = current->running();
  while (thread.groups.size() > groups_left) {
    for (const Copy& copy : thread.groups.front()) {
      std::memcpy(copy.shared, copy.global, copy.bytes);
    }
    thread.groups.pop_front();
  }
}

}  // namespace quantloom::cuda_emulation
