#include "tests/services/quantizer/scripted_work.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status.h"

namespace quantloom {

namespace fs = std::filesystem;

QuantizeFunction ScriptedWork::function() {
  return [this](const QuantizeOptions& options, const fs::path& staging, ThreadTeam&,
                const std::function<void(const QuantizeProgress&)>& progress,
                const std::function<bool()>& cancelled) {
    return Run(options, staging, progress, cancelled);
  };
}

void ScriptedWork::Allow(int tensors) {
  {
    const std::lock_guard lock(mutex_);
    allowed_ += tensors;
  }
  changed_.notify_all();
}

void ScriptedWork::WaitForEncoded(int tensors) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return encoded_ >= tensors; });
}

void ScriptedWork::FailWith(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  failure_ = status;
}

int ScriptedWork::encoded() {
  const std::lock_guard lock(mutex_);
  return encoded_;
}

int ScriptedWork::runs() {
  const std::lock_guard lock(mutex_);
  return runs_;
}

std::vector<QuantizeOptions> ScriptedWork::options() {
  const std::lock_guard lock(mutex_);
  return options_;
}

bool ScriptedWork::WaitForPermission(const std::function<bool()>& cancelled) {
  std::unique_lock lock(mutex_);
  while (allowed_ == 0) {
    if (cancelled()) return false;
    changed_.wait_for(lock, std::chrono::milliseconds(2));
  }
  --allowed_;
  return true;
}

absl::StatusOr<QuantizeResult> ScriptedWork::Run(
    const QuantizeOptions& options, const fs::path& staging,
    const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled) {
  {
    const std::lock_guard lock(mutex_);
    ++runs_;
    options_.push_back(options);
  }
  std::error_code error;
  fs::create_directories(staging, error);
  QuantizeProgress state;
  state.device = "cuda:1";
  state.tensors_total = kTensors;
  state.weights_total = kTensors * kWeights;
  state.eta = absl::InfiniteDuration();
  progress(state);
  state.phase = QuantizeProgress::Phase::kEncoding;
  std::string manifest = absl::StrCat(options.recipe, " ", options.seed);
  for (int i = 0; i < kTensors; ++i) {
    state.tensor = absl::StrCat("tensor-", i);
    state.codec = "icquant";
    state.tensor_seconds = 0;
    if (!fs::exists(staging / state.tensor)) {
      if (!WaitForPermission(cancelled)) return absl::CancelledError("cancelled");
      QL_RETURN_IF_ERROR(WriteFileAtomically(staging / state.tensor, state.tensor));
      state.tensor_seconds = 0.25;
      {
        const std::lock_guard lock(mutex_);
        ++encoded_;
      }
      changed_.notify_all();
    }
    state.tensors_done = i + 1;
    state.weights_done = state.tensors_done * kWeights;
    state.relative_error = 0.01;
    state.phase_fraction = static_cast<double>(state.tensors_done) / kTensors;
    state.eta = absl::Seconds(kTensors - state.tensors_done);
    progress(state);
    absl::StrAppend(&manifest, " ", state.tensor);
  }
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return failure_;
  }
  QL_RETURN_IF_ERROR(WriteFileAtomically(staging / kManifestFile, manifest));
  QuantizeResult result;
  result.manifest.linear_bits_per_weight = 2.25;
  result.manifest.bits_per_weight = 3.5;
  result.manifest.packed_bytes = 12345;
  result.elapsed = absl::Seconds(1);
  if (!options.evaluation_text.empty()) {
    result.quality.emplace();
    result.quality->text_name = options.evaluation_name;
    result.quality->perplexity_source = 10;
    result.quality->perplexity_packed = 11;
  }
  return result;
}

}  // namespace quantloom
