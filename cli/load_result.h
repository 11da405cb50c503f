// What a run of `quantloom load` has seen, and the figures that follow from it. Times are seconds
// since the start.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "grpcpp/support/status.h"

namespace quantloom::cli {

// One request.
struct RequestRecord {
  double due = 0;   // when it was to be sent: what latencies count from
  double sent = 0;  // when it was
  double first_token = std::numeric_limits<double>::quiet_NaN();
  double end = 0;
  double queue_time = 0;       // as the server says; of finished ones
  uint32_t prompt_tokens = 0;  // 0 for text whose answer did not finish
  uint32_t cached_tokens = 0;
  uint32_t generated_tokens = 0;
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;
  bool measured = false;   // due after the warm-up
  bool finished = false;   // its answer came to its end
  bool cancelled = false;  // on purpose, as the workload says
  bool stopped = false;    // cancelled since the run was stopped

  bool any_token() const { return generated_tokens > 0; }
};

struct LoadResult {
  static constexpr double kTick = 0.1;  // seconds

  std::vector<RequestRecord> requests;      // in the order of their ends
  std::vector<float> gaps;                  // between tokens of measured requests that ended OK
  std::vector<uint32_t> generated_by_tick;  // tokens that arrived in each tick
  std::map<grpc::StatusCode, std::string> messages;  // the first with each code that is an error
  double warmup = 0;                                 // measuring began here
  double end = 0;                                    // and ended here
  bool stopped = false;                              // before it was through
  double stopped_at = 0;
};

// Percentiles of a sample by the nearest rank, in seconds.
struct Latency {
  uint64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;

  static Latency Of(std::vector<double> sample);
};

// Tokens per second at one moment of the run.
struct Throughput {
  double time;  // middle of an interval
  double prompt;
  double generated;
};

// Figures of the measured requests. Latencies are of those that ended OK.
struct LoadSummary {
  std::map<grpc::StatusCode, uint64_t> by_code;  // neither cancelled on purpose nor stopped
  uint64_t sent = 0;
  uint64_t cancelled = 0;
  uint64_t stopped = 0;
  uint64_t prompt_tokens = 0;     // of requests that had their first token while it was measured
  uint64_t cached_tokens = 0;     // of those, what the prefix cache spared
  uint64_t generated_tokens = 0;  // that arrived while it was measured
  double seconds = 0;             // that it was measured
  std::vector<double> time_to_first_token;
  std::vector<double> inter_token;
  std::vector<double> end_to_end;
  std::vector<double> queue_time;
  std::vector<double> send_lag;  // due to sent, of all that were sent
  std::vector<Throughput> throughput;
  double throughput_interval = 0;  // seconds

  uint64_t ok() const;
  // Per second of `seconds`; 0 when that is 0.
  double Rate(uint64_t count) const;

  static LoadSummary Of(const LoadResult& result);
};

}  // namespace quantloom::cli
