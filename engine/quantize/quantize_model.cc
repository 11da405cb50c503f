#include "engine/quantize/quantize_model.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/sha256.h"
#include "core/base/status.h"
#include "core/format/source_model.h"
#include "core/rounding/hessian_factors.h"
#include "engine/loaded_model.h"
#include "engine/quantize/calibration.h"
#include "engine/quantize/evaluation.h"
#include "engine/quantize/layerwise.h"
#include "engine/quantize/quality_report.h"
#include "engine/quantize/tensor_plan.h"
#include "engine/source_weights.h"

namespace quantloom {
namespace {

constexpr size_t kCalibrationWindow = 512;
constexpr uint32_t kMaxCalibrationTokens = 1 << 20;

using Phase = QuantizeProgress::Phase;

// Options that were checked, with the source they were checked against.
struct Job {
  std::unique_ptr<SourceModel> source;
  std::vector<PlannedTensor> plan;
  uint32_t window_tokens = 0;  // of the evaluation
};

absl::StatusOr<Job> OpenJob(const QuantizeOptions& options) {
  if (options.calibration_tokens > kMaxCalibrationTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "calibration.tokens: ", options.calibration_tokens, " is above ", kMaxCalibrationTokens));
  }
  absl::StatusOr<std::unique_ptr<SourceModel>> source = SourceModel::Open(options.source);
  if (!source.ok()) return Annotate(source.status(), "source");
  const uint64_t context = (*source)->config().max_position;
  Job job;
  const uint32_t asked = options.evaluation_text.empty() ? 0 : options.evaluation_window_tokens;
  const absl::StatusOr<uint32_t> window_tokens = ResolveWindowTokens(asked, context);
  if (!window_tokens.ok()) return Annotate(window_tokens.status(), "evaluation.window_tokens");
  job.window_tokens = *window_tokens;
  QL_ASSIGN_OR_RETURN(job.plan, PlanTensors((*source)->config(), options));
  job.source = *std::move(source);
  return job;
}

// One run of a job: what its phases share.
class QuantizeRun {
 public:
  QuantizeRun(const QuantizeOptions& options, Job job, const std::filesystem::path& staging,
              const Device& device, ThreadTeam& team,
              const std::function<void(const QuantizeProgress&)>& report,
              const std::function<bool()>& cancelled)
      : options_(options),
        source_(std::move(job.source)),
        plan_(std::move(job.plan)),
        window_tokens_(job.window_tokens),
        staging_(staging),
        device_(device),
        team_(team),
        report_(report),
        cancelled_(cancelled),
        start_(absl::Now()) {
    progress_.device = device.name();
    if (device.name() != "cpu") calibration_device_ = device.description();
  }

  absl::StatusOr<QuantizeResult> Run() {
    absl::StatusOr<QuantizeResult> result = RunPhases();
    if (result.ok() || !device_failed_) return result;
    return absl::UnavailableError(
        absl::StrCat("device ", device_.name(), " failed: ", result.status().message()));
  }

 private:
  absl::StatusOr<QuantizeResult> RunPhases() {
    QL_RETURN_IF_ERROR(Enter(Phase::kLoading));
    for (const PlannedTensor& tensor : plan_) {
      ++progress_.tensors_total;
      if (tensor.codec) progress_.weights_total += tensor.weights();
    }

    if (options_.calibration_tokens > 0 || !options_.evaluation_text.empty()) {
      absl::StatusOr<std::shared_ptr<const LoadedModel>> loaded =
          LoadedModel::LoadSource(*source_, team_);
      if (!loaded.ok()) return Annotate(loaded.status(), "source");
      source_in_memory_ = *std::move(loaded);
    }

    QuantizeResult result;
    QL_ASSIGN_OR_RETURN(result.manifest, MakePackedModel());

    if (!options_.evaluation_text.empty()) {
      QL_RETURN_IF_ERROR(Enter(Phase::kEvaluating));
      QL_ASSIGN_OR_RETURN(result.quality, Evaluate());
    }
    QL_RETURN_IF_ERROR(WriteQualityReport(staging_, options_.source.stem().string(),
                                          result.manifest, result.quality));
    result.elapsed = absl::Now() - start_;
    return result;
  }

  absl::Status Enter(Phase phase) {
    progress_.phase = phase;
    phase_start_ = absl::Now();
    return Step(0);
  }

  absl::StatusOr<PackedManifest> MakePackedModel() {
    QL_ASSIGN_OR_RETURN(writer_, PackedModelWriter::Open(staging_, {}));
    // A run that was interrupted while it evaluated left the model complete.
    if (const PackedManifest* finished = writer_->finished(); finished != nullptr) {
      progress_.tensors_done = progress_.tensors_total;
      progress_.weights_done = progress_.weights_total;
      progress_.bits_per_weight = finished->linear_bits_per_weight;
      return Finish(finished->calibration_sha256);
    }
    CalibrationText text;
    if (options_.calibration_tokens > 0) {
      QL_RETURN_IF_ERROR(Enter(Phase::kCalibrating));
      QL_ASSIGN_OR_RETURN(text, MakeCalibrationText());
    }
    QL_RETURN_IF_ERROR(Enter(Phase::kEncoding));
    QL_RETURN_IF_ERROR(EncodeOnDevice(text));
    QL_RETURN_IF_ERROR(Enter(Phase::kWriting));
    return Finish(text.windows.empty() ? "" : text.Digest());
  }

  absl::StatusOr<PackedManifest> Finish(const std::string& calibration_sha256) {
    PackedManifest manifest;
    // The linear layers' recipe in canonical spelling: what the directory as a whole is called.
    QL_ASSIGN_OR_RETURN(const auto codec, CreateCodec(options_.recipe));
    manifest.recipe = codec->recipe();
    QL_ASSIGN_OR_RETURN(manifest.source_sha256, source_->Digest());
    manifest.calibration_sha256 = calibration_sha256;
    manifest.seed = options_.seed;
    return writer_->Finish(source_->config(), source_->tokenizer_files(), manifest);
  }

  // Reports that `fraction` of the phase is done; CANCELLED when that was asked for.
  absl::Status Step(double fraction) {
    progress_.phase_fraction = fraction;
    progress_.eta = TimeLeft(fraction);
    report_(progress_);
    if (cancelled_()) return absl::CancelledError("the job was cancelled");
    return absl::OkStatus();
  }

  // From the pace of the current phase, and of calibration for the evaluation to come (each token
  // there passes through two models). Unknown before the current phase has a pace.
  absl::Duration TimeLeft(double fraction) const {
    if (fraction < 0.02 || progress_.phase < Phase::kEncoding) return absl::InfiniteDuration();
    absl::Duration left = (absl::Now() - phase_start_) * ((1 - fraction) / fraction);
    if (progress_.phase < Phase::kEvaluating && !options_.evaluation_text.empty()) {
      if (token_time_ == absl::ZeroDuration()) return absl::InfiniteDuration();
      left += token_time_ * 2 * static_cast<double>(EvaluationTokens());
    }
    return left;
  }

  uint64_t EvaluationTokens() const {
    // Before the text is tokenized: four bytes a token is typical.
    const uint64_t all = options_.evaluation_text.size() / 4;
    const uint64_t asked = uint64_t{options_.evaluation_windows} * window_tokens_;
    return asked == 0 ? all : std::min(all, asked);
  }

  absl::StatusOr<CalibrationText> MakeCalibrationText() {
    if (options_.calibration_text.empty()) {
      return SampleCalibrationText(*source_in_memory_, options_.calibration_tokens, options_.seed,
                                   [this](double fraction) { return Step(fraction); });
    }
    std::vector<int32_t> tokens =
        source_in_memory_->EncodePrompt(options_.calibration_text, /*parse_special=*/false);
    if (tokens.size() < 2) {
      return absl::InvalidArgumentError("calibration: the text is too short");
    }
    tokens.resize(std::min<size_t>(tokens.size(), options_.calibration_tokens));
    return CutIntoWindows(tokens,
                          std::min<size_t>(kCalibrationWindow, source_->config().max_position));
  }

  absl::Status EncodeOnDevice(const CalibrationText& text) {
    absl::StatusOr<std::unique_ptr<Backend>> backend = device_.CreateBackend(team_);
    // A device that is broken says INTERNAL; one that lacks memory is good for smaller jobs.
    if (!backend.ok()) {
      device_failed_ = absl::IsInternal(backend.status());
      return backend.status();
    }
    backend_ = *std::move(backend);
    const absl::Status encoded = Encode(text);
    device_failed_ = absl::IsInternal(backend_->status());
    backend_.reset();  // evaluation has use for the memory
    return encoded;
  }

  // Encodes what calibration says nothing of, then the layers in forward order as calibration text
  // passes through them.
  absl::Status Encode(const CalibrationText& text) {
    const std::string head =
        source_->config().tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    for (const PlannedTensor& tensor : plan_) {
      const bool has_inputs =
          tensor.spec.role == TensorSpec::Role::kLinear || tensor.spec.name == head;
      if (!text.windows.empty() && has_inputs) continue;
      QL_RETURN_IF_ERROR(EnsureEncoded(tensor, tensor.spec.name, nullptr));
    }
    if (text.windows.empty()) return absl::OkStatus();
    SourceWeights weights(*source_, *backend_);
    return RunLayerwise(
        source_->config(), weights, *backend_, text,
        [&](absl::Span<LinearWeight* const> group, Hessian hessian) {
          return EncodeGroup(group, std::move(hessian), weights);
        },
        [this] { return Step(progress_.phase_fraction); });
  }

  absl::Status EncodeGroup(absl::Span<LinearWeight* const> group, Hessian hessian,
                           SourceWeights& weights) {
    HessianFactors factors(std::move(hessian));
    for (LinearWeight* linear : group) {
      const PlannedTensor& tensor = *FindPlanned(linear->name);
      QL_RETURN_IF_ERROR(EnsureEncoded(tensor, group[0]->name, &factors));
      if (tensor.spec.role != TensorSpec::Role::kLinear) continue;
      if (!tensor.codec || options_.calibrate_on_source) {
        QL_ASSIGN_OR_RETURN(linear->matrix,
                            weights.Matrix(linear->name, linear->rows, linear->cols));
        continue;
      }
      QL_ASSIGN_OR_RETURN(const auto packed, writer_->OpenMatrix(linear->name));
      const std::vector<float> values = Dequantize(*packed, team_);
      const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
      QL_ASSIGN_OR_RETURN(linear->matrix,
                          backend_->MatrixFromDense(linear->rows, linear->cols, DType::kF32,
                                                    {bytes, values.size() * sizeof(float)}));
    }
    return absl::OkStatus();
  }

  const PlannedTensor* FindPlanned(absl::string_view name) const {
    return &*std::find_if(plan_.begin(), plan_.end(),
                          [&](const PlannedTensor& tensor) { return tensor.spec.name == name; });
  }

  // Encodes and stores the tensor unless an earlier run did.
  // `input` names the input that the tensor's layer reads.
  absl::Status EnsureEncoded(const PlannedTensor& tensor, absl::string_view input,
                             HessianFactors* hessian) {
    const std::string& name = tensor.spec.name;
    progress_.tensor_seconds = 0;
    if (writer_->FindTensor(name) == nullptr) {
      const absl::Time begin = absl::Now();
      QL_RETURN_IF_ERROR(
          Annotate(EncodeTensor(tensor, input, hessian), absl::StrCat("tensor '", name, "'")));
      progress_.tensor_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
      if (tensor.codec) {
        encoded_weights_ += tensor.weights();
        encoding_seconds_ += progress_.tensor_seconds;
      }
    }
    const PackedTensorInfo& info = *writer_->FindTensor(name);
    if (tensor.spec.role == TensorSpec::Role::kLinear) {
      linear_weights_ += tensor.weights();
      linear_bits_ += info.bits_per_weight * static_cast<double>(tensor.weights());
      progress_.bits_per_weight = linear_bits_ / static_cast<double>(linear_weights_);
    }
    ++progress_.tensors_done;
    if (tensor.codec) progress_.weights_done += tensor.weights();
    progress_.tensor = name;
    progress_.codec = tensor.codec ? info.recipe.substr(0, info.recipe.find(':')) : "";
    progress_.relative_error = info.relative_error;
    progress_.weights_per_second =
        static_cast<double>(encoded_weights_) / std::max(encoding_seconds_, 1e-9);
    const double fraction = static_cast<double>(progress_.weights_done) /
                            static_cast<double>(std::max<uint64_t>(progress_.weights_total, 1));
    if (options_.calibration_tokens > 0 && fraction > 0) {
      // What is left of the phase's time passed calibration tokens through that share of the model.
      token_time_ = (absl::Now() - phase_start_ - absl::Seconds(encoding_seconds_)) /
                    (fraction * options_.calibration_tokens);
    }
    return Step(fraction);
  }

  absl::Status EncodeTensor(const PlannedTensor& tensor, absl::string_view input,
                            HessianFactors* hessian) {
    QL_ASSIGN_OR_RETURN(const std::vector<float> values, source_->ReadFloats(tensor.spec.name));
    if (!tensor.codec) {
      QL_ASSIGN_OR_RETURN(const DType dtype, source_->StoredType(tensor.spec.name));
      return writer_->AddRaw(tensor.spec.name, tensor.spec.shape, dtype, values);
    }
    std::vector<float> importance;
    if (hessian != nullptr) importance = hessian->hessian().MeanSquares();
    const uint64_t rows = tensor.spec.shape[0], cols = tensor.spec.shape[1];
    QL_ASSIGN_OR_RETURN(const EncodedMatrix encoded,
                        tensor.codec->Encode({.weights = values,
                                              .rows = rows,
                                              .cols = cols,
                                              .importance = importance,
                                              .hessian = hessian,
                                              .input_seed = SeedOf("input", input),
                                              .output_seed = SeedOf("output", tensor.spec.name),
                                              .trellis_search = backend_->trellis_search()},
                                             team_));
    return writer_->AddEncoded(tensor.spec.name, rows, cols, encoded,
                               hessian == nullptr ? "" : calibration_device_);
  }

  // A seed of its own for each use and name, from the job's.
  uint64_t SeedOf(absl::string_view use, absl::string_view name) const {
    const std::string text = absl::StrCat(options_.seed, "/", use, "/", name);
    const std::string digest =
        Sha256::Of({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    uint64_t seed = 0;
    for (const char digit : digest.substr(0, 16)) {
      seed = seed << 4 | static_cast<uint64_t>(digit <= '9' ? digit - '0' : digit - 'a' + 10);
    }
    return seed;
  }

  absl::StatusOr<QualityMetrics> Evaluate() {
    QL_ASSIGN_OR_RETURN(auto packed, LoadedModel::LoadPacked(staging_, Verify::kHeader, team_));
    const std::vector<int32_t> tokens =
        source_in_memory_->EncodePrompt(options_.evaluation_text, /*parse_special=*/false);
    absl::StatusOr<QualityMetrics> metrics =
        CompareModels(*source_in_memory_, *packed, tokens, options_.evaluation_windows,
                      window_tokens_, team_, [this](double fraction) { return Step(fraction); });
    if (!metrics.ok()) return Annotate(metrics.status(), "evaluation");
    metrics->text_name = options_.evaluation_name;
    const std::string& text = options_.evaluation_text;
    metrics->text_sha256 = Sha256::Of({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    return metrics;
  }

  const QuantizeOptions& options_;
  const std::unique_ptr<SourceModel> source_;
  const std::vector<PlannedTensor> plan_;
  const uint32_t window_tokens_;
  const std::filesystem::path& staging_;
  const Device& device_;
  std::string calibration_device_;  // for the manifest; empty on the CPU
  ThreadTeam& team_;
  const std::function<void(const QuantizeProgress&)>& report_;
  const std::function<bool()>& cancelled_;

  absl::Time start_;
  absl::Time phase_start_;
  absl::Duration token_time_;  // of a pass through the model
  QuantizeProgress progress_;
  std::shared_ptr<const LoadedModel> source_in_memory_;
  std::unique_ptr<PackedModelWriter> writer_;
  std::unique_ptr<Backend> backend_;  // of the device, while tensors are encoded
  bool device_failed_ = false;
  uint64_t encoded_weights_ = 0;  // by this run
  double encoding_seconds_ = 0;
  uint64_t linear_weights_ = 0;
  double linear_bits_ = 0;
};

}  // namespace

absl::Status ResolveQuantizeOptions(QuantizeOptions& options) {
  QL_ASSIGN_OR_RETURN(const Job job, OpenJob(options));
  options.evaluation_window_tokens = job.window_tokens;
  return absl::OkStatus();
}

absl::StatusOr<QuantizeResult> QuantizeModel(
    const QuantizeOptions& options, const std::filesystem::path& staging, const Device& device,
    ThreadTeam& team, const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled) {
  QL_ASSIGN_OR_RETURN(Job job, OpenJob(options));
  return QuantizeRun(options, std::move(job), staging, device, team, progress, cancelled).Run();
}

absl::StatusOr<QuantizeResult> QuantizeModel(
    const QuantizeOptions& options, const std::filesystem::path& staging, ThreadTeam& team,
    const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled) {
  QL_ASSIGN_OR_RETURN(const std::unique_ptr<Device> cpu, OpenCpu());
  return QuantizeModel(options, staging, *cpu, team, progress, cancelled);
}

}  // namespace quantloom
