// The quantization job's work: source -> calibration -> per-tensor encode -> packed directory and
// quality report. No RPC, no job store: the quantizer service wraps this, tests and benchmarks call
// it directly.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/parallel.h"
#include "core/format/packed_model.h"
#include "engine/device.h"

namespace quantloom {

// What to do with which tensors. The first override whose pattern matches the tensor's name wins.
struct QuantizeOptions {
  std::filesystem::path source;
  std::string recipe;  // linear layers of the decoder
  std::string embedding_recipe =
      "icquant:bits=8,inner=rtn,outliers=0";  // embedding and output head
  std::vector<std::pair<std::string, std::string>>
      overrides;  // (glob over tensor names: * and ?, recipe)
  uint64_t seed = 0;

  // Calibration text (UTF-8), or empty: sampled from the source model. Used for column importance.
  std::string calibration_text;
  uint32_t calibration_tokens = 8192;  // 0: uniform importance
  // Calibration on the source's activations, not on what the quantized layers below leave.
  bool calibrate_on_source = false;

  // Text to measure quality on, or empty: no perplexity in the report.
  std::string evaluation_text;
  std::string evaluation_name;            // how the report names it
  uint32_t evaluation_windows = 0;        // 0: all
  uint32_t evaluation_window_tokens = 0;  // 0: 512, or the context if shorter
};

struct QuantizeProgress {
  enum class Phase { kLoading, kCalibrating, kEncoding, kWriting, kEvaluating };
  Phase phase = Phase::kLoading;
  std::string device;         // Device::name() of where the job runs
  std::string tensor;         // the one just finished (kEncoding)
  std::string codec;          // its codec's name; empty for a tensor stored as it is
  double tensor_seconds = 0;  // spent encoding it; 0 when an earlier run had finished it
  uint32_t tensors_done = 0;
  uint32_t tensors_total = 0;
  uint64_t weights_done = 0;
  uint64_t weights_total = 0;
  double weights_per_second = 0;  // of encoding
  double bits_per_weight = 0;     // of linear layers so far
  double relative_error = 0;      // of the tensor just finished
  double phase_fraction = 0;      // 0..1 of the current phase
  absl::Duration eta;             // estimate for the whole job; InfiniteDuration while unknown
};

// Perplexity and divergence on a text, in windows without overlap, the second half of each scored.
struct QualityMetrics {
  std::string text_name;
  std::string text_sha256;
  uint64_t scored_tokens = 0;
  double perplexity_source = 0;
  double perplexity_packed = 0;
  double kl_mean = 0;  // KL(source || packed), nats per position
  double kl_p99 = 0;
  double top1_agreement = 0;  // share of positions, 0..1
};

struct QuantizeResult {
  PackedManifest manifest;
  std::optional<QualityMetrics> quality;
  absl::Duration elapsed;
};

// Checks everything that can be known before work starts (recipes, patterns, the source's format
// and architecture), and sets what was left to the source: evaluation_window_tokens.
absl::Status ResolveQuantizeOptions(QuantizeOptions& options);

// Runs the job in `staging` (created if missing; what an interrupted run finished there is kept)
// and leaves there the complete directory, quality.json and report.html included, ready to be
// renamed into place. `progress` is called from the calling thread and `cancelled` polled there,
// between tensors and between windows of text: every second or so. When cancelled the job ends with
// CANCELLED, staging left as it is. The directory's bytes depend on the options and source alone,
// with calibration on the device, too, not on threads, SIMD target or interruptions.
// INVALID_ARGUMENT naming the field, file or tensor; RESOURCE_EXHAUSTED for a full disk, and for
// memory that the device does not have; UNAVAILABLE when the device has failed, which it then does
// in every job of the process.
//
// On `device` calibration text passes through the layers, and Hessians and trellis codes' bits are
// made. The last two are the CPU's for the same inputs, but the inputs are not, so the manifest
// says which tensors a GPU calibrated; without calibration the bytes are the CPU's.
absl::StatusOr<QuantizeResult> QuantizeModel(
    const QuantizeOptions& options, const std::filesystem::path& staging, const Device& device,
    ThreadTeam& team, const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled);
// On the CPU. FAILED_PRECONDITION for one without the needed instructions.
absl::StatusOr<QuantizeResult> QuantizeModel(
    const QuantizeOptions& options, const std::filesystem::path& staging, ThreadTeam& team,
    const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled);

}  // namespace quantloom
