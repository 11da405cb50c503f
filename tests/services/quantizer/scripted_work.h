// Work whose pace and outcome a test decides, with the engine's contract: it keeps what it finds
// finished in the staging directory, and its output depends on the options alone.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "services/quantizer/job_runner.h"

namespace quantloom {

class ScriptedWork {
 public:
  static constexpr int kTensors = 4;
  static constexpr uint64_t kWeights = 100;  // of each tensor

  // To be given to a JobRunner; this object must outlive it.
  QuantizeFunction function();

  // Lets so many more tensors be encoded, in all runs together.
  void Allow(int tensors);
  // Lets every run go on to its end.
  void AllowAll() { Allow(1 << 30); }
  // Waits until so many tensors have been encoded.
  void WaitForEncoded(int tensors);
  // From now on a run ends with this after its last tensor.
  void FailWith(const absl::Status& status);

  // Tensors encoded so far, in all runs; those found finished do not count.
  int encoded();
  int runs();
  std::vector<QuantizeOptions> options();

 private:
  absl::StatusOr<QuantizeResult> Run(const QuantizeOptions& options,
                                     const std::filesystem::path& staging,
                                     const std::function<void(const QuantizeProgress&)>& progress,
                                     const std::function<bool()>& cancelled);
  bool WaitForPermission(const std::function<bool()>& cancelled);

  std::mutex mutex_;
  std::condition_variable changed_;
  int allowed_ = 0;
  int encoded_ = 0;
  int runs_ = 0;
  absl::Status failure_;
  std::vector<QuantizeOptions> options_;
};

}  // namespace quantloom
