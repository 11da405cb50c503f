// Sends requests as a workload says and records what comes of each. One process drives thousands of
// streams: they run on gRPC's few callback threads, and the calling thread only starts them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <queue>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/time/time.h"
#include "cli/load_result.h"
#include "cli/load_workload.h"
#include "quantloom/v1/generation.grpc.pb.h"

namespace quantloom::cli {

// When requests are sent, in seconds since the start.
struct LoadSchedule {
  // Closed loop: so many streams, each of which sends its next request when the one before has
  // ended; after a refusal it pauses as the server asks. 0: open loop.
  uint32_t streams = 0;
  // Open loop: requests per second, whatever has become of those before; at random (a Poisson
  // process) or evenly.
  double rate = 0;
  bool poisson = true;
  // Requests that are due earlier are sent and not measured.
  double warmup = 0;
  // No request is due later than this after the warm-up.
  double duration = std::numeric_limits<double>::infinity();
  // Requests to measure.
  uint64_t requests = std::numeric_limits<uint64_t>::max();
  // An arrival beyond these waits at this end; its latency counts from when it was due.
  uint32_t max_in_flight = 10'000;
  // Each request's deadline; infinite: none.
  absl::Duration timeout = absl::InfiniteDuration();
  uint64_t seed = 0;
};

class LoadGenerator {
 public:
  struct Progress {
    double elapsed;  // seconds
    uint64_t ended;  // requests, warm-up included
    uint64_t failed;
    uint32_t in_flight;
    uint64_t generated_tokens;
  };

  // All must outlive the generator.
  LoadGenerator(quantloom::v1::GenerationService::Stub& stub, const Workload& workload,
                const LoadSchedule& schedule);
  LoadGenerator(const LoadGenerator&) = delete;
  LoadGenerator& operator=(const LoadGenerator&) = delete;

  // Runs to the end and returns what was seen; calls `show` now and then. Once.
  LoadResult Run(const std::function<void(const Progress&)>& show);

  // Sends no more and cancels what is in flight, so that Run soon returns. Any thread.
  void Stop();

 private:
  class Stream;
  friend class Stream;

  struct Next {
    double due;
    bool ready;  // false: some request must end first
  };

  double Now() const;
  bool Exhausted(double due) const;
  Next NextRequest() const;
  void Start(double due);
  void AddTokens(double time, uint32_t count);
  void Ended(Stream& stream, RequestRecord record, const std::string& message,
             double pause_seconds);

  quantloom::v1::GenerationService::Stub& stub_;
  const Workload& workload_;
  const LoadSchedule& schedule_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();

  // The calling thread's alone.
  std::mt19937_64 random_;
  double next_arrival_ = 0;  // open loop
  uint64_t sent_ = 0;
  uint64_t measured_ = 0;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool stopped_ = false;
  // When each idle stream of the closed loop sends its next request, earliest first.
  std::priority_queue<double, std::vector<double>, std::greater<>> ready_;
  std::unordered_map<const Stream*, std::shared_ptr<Stream>> in_flight_;
  uint64_t failed_ = 0;
  uint64_t generated_tokens_ = 0;
  LoadResult result_;
};

}  // namespace quantloom::cli
