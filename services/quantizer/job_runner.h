// Works on jobs: takes them from the store, runs the engine, publishes, and settles the outcome.
//
// A job ends in exactly one way, however the process stops: the outcome is one transaction in the
// store. Before a finished staging directory is renamed to the output, the store records its
// manifest's digest; a process that finds that record on a running job looks where the directory is
// and goes on from there.
//
// A job whose device fails (the work's UNAVAILABLE) fails, and the runner takes no more jobs: no
// other of this process could use the device. Those that wait are for the next process.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/quantize/quantize_model.h"
#include "services/common/confined_root.h"
#include "services/quantizer/job_store.h"
#include "services/quantizer/publication.h"
#include "services/quantizer/quantizer_metrics.h"

namespace quantloom {

// QuantizeModel's signature and contract.
using QuantizeFunction = std::function<absl::StatusOr<QuantizeResult>(
    const QuantizeOptions& options, const std::filesystem::path& staging, ThreadTeam& team,
    const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled)>;

// Thread-safe.
class JobRunner {
 public:
  struct Options {
    int max_running = 1;  // jobs at a time
    int threads = 0;      // for each; 0: one per processor
    // A job fails when this many processes have ended without a word while they worked on it (out
    // of memory, a crash, SIGKILL); 0: it is resumed every time.
    int max_crashes = 3;
    // Progress is committed this often, and when the phase changes.
    absl::Duration progress_interval = absl::Milliseconds(500);
  };

  // `store` and `metrics` must outlive the runner.
  JobRunner(Options options, ConfinedRoot source_root, Publisher publisher, QuantizeFunction work,
            JobStore& store, QuantizerMetrics& metrics);
  // As Stop.
  ~JobRunner();
  JobRunner(const JobRunner&) = delete;
  JobRunner& operator=(const JobRunner&) = delete;

  // `listener` is told once, on a worker's thread, when a device has failed. Before Start.
  void SetDeviceFailureListener(std::function<void()> listener);
  // Removes staging directories of jobs that have ended, and starts to work.
  void Start();
  // A job was queued.
  void Wake();
  // A running job is to be cancelled; the store knows. Others are ignored.
  void Cancel(const std::string& job);
  // Interrupts running jobs where they are, to be resumed by the next process. Returns at once.
  void RequestStop();
  // RequestStop, and waits until they have stopped.
  void Stop();

 private:
  struct Outcome {
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;  // RUNNING: interrupted
    v1::QuantizeResult result;
    v1::JobError error;
  };
  class Progress;

  void WorkerLoop();
  void Run(const ClaimedJob& claimed, ThreadTeam& team, const std::atomic<bool>& cancel);
  Outcome Work(const ClaimedJob& claimed, ThreadTeam& team, const std::atomic<bool>& cancel);
  absl::StatusOr<v1::QuantizeResult> QuantizeAndPublish(const ClaimedJob& claimed, ThreadTeam& team,
                                                        const std::atomic<bool>& cancel);
  // Finishes a publication that a stopped process had decided on; nullopt when nothing of it is
  // left.
  absl::StatusOr<std::optional<v1::QuantizeResult>> FinishPublication(const ClaimedJob& claimed);
  void LoseDevice(const absl::Status& failure);
  v1::QuantizeResult Describe(const QuantizeResult& result, const std::string& output) const;
  absl::Status Settle(const std::string& job, const Outcome& outcome);
  // Calls until it succeeds or has no chance to; false when the runner stops before.
  bool Persist(const std::string& job, const std::function<absl::Status()>& write);
  void RemoveOrphans();
  bool SleepUnlessStopped(absl::Duration duration);

  const Options options_;
  const ConfinedRoot source_root_;
  const Publisher publisher_;
  const QuantizeFunction work_;
  JobStore& store_;
  QuantizerMetrics& metrics_;
  std::function<void()> device_failure_listener_;

  std::atomic<bool> stop_{false};
  std::atomic<bool> device_lost_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  uint64_t wake_count_ = 0;
  std::map<std::string, std::atomic<bool>> running_;  // whether to cancel
  std::vector<std::thread> workers_;
};

}  // namespace quantloom
