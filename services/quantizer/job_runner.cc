#include "services/quantizer/job_runner.h"

#include <new>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status.h"
#include "services/common/logging.h"
#include "services/common/proto_time.h"
#include "services/quantizer/quantize_request.h"

namespace quantloom {
namespace {

// Between tries to write to a store that fails (a full disk, mostly).
constexpr absl::Duration kRetryInterval = absl::Seconds(1);

v1::JobPhase PhaseMessage(QuantizeProgress::Phase phase) {
  switch (phase) {
    case QuantizeProgress::Phase::kLoading:
      return v1::JOB_PHASE_LOADING;
    case QuantizeProgress::Phase::kCalibrating:
      return v1::JOB_PHASE_CALIBRATING;
    case QuantizeProgress::Phase::kEncoding:
      return v1::JOB_PHASE_ENCODING;
    case QuantizeProgress::Phase::kWriting:
      return v1::JOB_PHASE_WRITING;
    case QuantizeProgress::Phase::kEvaluating:
      return v1::JOB_PHASE_EVALUATING;
  }
  return v1::JOB_PHASE_UNSPECIFIED;
}

v1::JobProgress ProgressMessage(const QuantizeProgress& progress) {
  v1::JobProgress proto;
  proto.set_phase(PhaseMessage(progress.phase));
  proto.set_phase_fraction(progress.phase_fraction);
  proto.set_device(progress.device);
  proto.set_tensor(progress.tensor);
  proto.set_tensors_done(progress.tensors_done);
  proto.set_tensors_total(progress.tensors_total);
  proto.set_weights_done(progress.weights_done);
  proto.set_weights_total(progress.weights_total);
  proto.set_weights_per_second(progress.weights_per_second);
  proto.set_bits_per_weight(progress.bits_per_weight);
  proto.set_relative_error(progress.relative_error);
  if (progress.eta < absl::InfiniteDuration()) *proto.mutable_eta() = ToProto(progress.eta);
  return proto;
}

v1::QualityMetrics QualityMessage(const QualityMetrics& quality) {
  v1::QualityMetrics proto;
  proto.set_text_name(quality.text_name);
  proto.set_text_sha256(quality.text_sha256);
  proto.set_scored_tokens(quality.scored_tokens);
  proto.set_perplexity_source(quality.perplexity_source);
  proto.set_perplexity_packed(quality.perplexity_packed);
  proto.set_kl_mean(quality.kl_mean);
  proto.set_kl_p99(quality.kl_p99);
  proto.set_top1_agreement(quality.top1_agreement);
  return proto;
}

}  // namespace

// One run's progress: every encoded tensor is counted in the metrics, and now and then the newest
// state goes to the store.
class JobRunner::Progress {
 public:
  Progress(const JobRunner& runner, const std::string& job) : runner_(runner), job_(job) {}

  void Report(const QuantizeProgress& progress) {
    CountTensor(progress);
    const absl::Time now = absl::Now();
    if (progress.phase == phase_ && now < next_commit_) return;
    phase_ = progress.phase;
    next_commit_ = now + runner_.options_.progress_interval;
    const absl::Status status = runner_.store_.AppendProgress(job_, ProgressMessage(progress));
    if (!status.ok()) {
      LogWarning("cannot store progress", {{"job", job_}, {"error", status.ToString()}});
    }
  }

 private:
  void CountTensor(const QuantizeProgress& progress) {
    if (progress.tensors_done == tensors_done_) return;
    if (!progress.codec.empty() && progress.tensor_seconds > 0) {
      runner_.metrics_.TensorEncoded(progress.codec, progress.weights_done - weights_done_,
                                     progress.tensor_seconds, progress.relative_error);
    }
    tensors_done_ = progress.tensors_done;
    weights_done_ = progress.weights_done;
  }

  const JobRunner& runner_;
  const std::string& job_;
  std::optional<QuantizeProgress::Phase> phase_;
  absl::Time next_commit_;
  uint32_t tensors_done_ = 0;
  uint64_t weights_done_ = 0;
};

JobRunner::JobRunner(Options options, ConfinedRoot source_root, Publisher publisher,
                     QuantizeFunction work, JobStore& store, QuantizerMetrics& metrics)
    : options_(options),
      source_root_(std::move(source_root)),
      publisher_(std::move(publisher)),
      work_(std::move(work)),
      store_(store),
      metrics_(metrics) {}

JobRunner::~JobRunner() { Stop(); }

void JobRunner::SetDeviceFailureListener(std::function<void()> listener) {
  device_failure_listener_ = std::move(listener);
}

void JobRunner::Start() {
  RemoveOrphans();
  for (int i = 0; i < options_.max_running; ++i) {
    workers_.emplace_back([this] { WorkerLoop(); });
  }
}

void JobRunner::RemoveOrphans() {
  for (const std::string& name : publisher_.StagedJobs()) {
    const absl::StatusOr<v1::Job> job = store_.Get(name);
    if (!job.ok() || !IsFinal(job->state())) continue;  // another service's, or to be resumed
    const absl::Status removed = publisher_.RemoveStaging(name);
    LogInfo("removed what an ended job had left", {{"job", name}, {"status", removed.ToString()}});
  }
}

void JobRunner::Wake() {
  {
    const std::lock_guard lock(mutex_);
    ++wake_count_;
  }
  wake_.notify_all();
}

void JobRunner::Cancel(const std::string& job) {
  const std::lock_guard lock(mutex_);
  const auto found = running_.find(job);
  if (found != running_.end()) found->second = true;
}

void JobRunner::RequestStop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
}

void JobRunner::Stop() {
  RequestStop();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

bool JobRunner::SleepUnlessStopped(absl::Duration duration) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, absl::ToChronoMilliseconds(duration),
                         [this] { return stop_.load(); });
}

void JobRunner::WorkerLoop() {
  ThreadTeam team(options_.threads);
  while (!stop_ && !device_lost_) {
    std::unique_lock lock(mutex_);
    // With the lock, so that a cancellation comes before the claim, which then tells of it, or
    // after, when it finds the job in running_.
    const absl::StatusOr<std::optional<ClaimedJob>> claimed = store_.Claim();
    if (!claimed.ok()) {
      lock.unlock();
      LogError("cannot take a job", {{"error", claimed.status().ToString()}});
      SleepUnlessStopped(kRetryInterval);
    } else if (*claimed) {
      const std::string& name = (*claimed)->job.name();
      std::atomic<bool>& cancel = running_[name];
      lock.unlock();
      Run(**claimed, team, cancel);
      lock.lock();
      running_.erase(name);
    } else {
      wake_.wait(lock, [this, seen = wake_count_] {
        return stop_ || device_lost_ || wake_count_ != seen;
      });
    }
  }
}

void JobRunner::LoseDevice(const absl::Status& failure) {
  {
    const std::lock_guard lock(mutex_);
    if (device_lost_.exchange(true)) return;
  }
  wake_.notify_all();
  LogError("the device has failed; no more jobs are taken until the next start",
           {{"error", failure.ToString()}});
  if (device_failure_listener_) device_failure_listener_();
}

void JobRunner::Run(const ClaimedJob& claimed, ThreadTeam& team, const std::atomic<bool>& cancel) {
  const std::string& name = claimed.job.name();
  const bool resumed = claimed.job.resumes() > 0;
  if (resumed) metrics_.JobResumed();
  LogInfo(resumed ? "job resumed" : "job started", {{"job", name},
                                                    {"output", claimed.request.output()},
                                                    {"recipe", claimed.request.recipe()},
                                                    {"crashes", claimed.crashes}});
  const Outcome outcome = Work(claimed, team, cancel);
  if (outcome.state == v1::JOB_STATE_RUNNING) {
    const absl::Status released = store_.Release(name);
    LogInfo("job interrupted, to be resumed", {{"job", name}, {"released", released.ToString()}});
    return;
  }
  if (outcome.state != v1::JOB_STATE_SUCCEEDED) {
    // First: it makes room on a full disk, where the store may be as well.
    const absl::Status removed = publisher_.RemoveStaging(name);
    if (!removed.ok())
      LogWarning("cannot clean up", {{"job", name}, {"error", removed.ToString()}});
  }
  const absl::Duration elapsed = absl::Now() - FromProto(claimed.job.start_time());
  // Before the end is visible: who has seen the job end finds it counted.
  metrics_.JobEnded(outcome.state, elapsed);
  if (!Persist(name, [&] { return Settle(name, outcome); })) return;
  LogInfo("job ended", {{"job", name},
                        {"state", JobStateLabel(outcome.state)},
                        {"seconds", absl::ToDoubleSeconds(elapsed)},
                        {"error", outcome.error.message()}});
}

JobRunner::Outcome JobRunner::Work(const ClaimedJob& claimed, ThreadTeam& team,
                                   const std::atomic<bool>& cancel) {
  absl::StatusOr<v1::QuantizeResult> result = absl::UnknownError("no result");
  // The boundary where a failed allocation, the one exception that code below may meet, must not
  // take the other jobs down.
  try {
    result = QuantizeAndPublish(claimed, team, cancel);
  } catch (const std::bad_alloc&) {
    result = absl::ResourceExhaustedError("out of memory");
  }
  Outcome outcome;
  if (result.ok()) {
    outcome.state = v1::JOB_STATE_SUCCEEDED;
    outcome.result = *std::move(result);
  } else if (absl::IsCancelled(result.status())) {
    const bool wanted = cancel || claimed.cancel_requested;
    outcome.state = wanted ? v1::JOB_STATE_CANCELLED : v1::JOB_STATE_RUNNING;
  } else {
    if (absl::IsUnavailable(result.status())) LoseDevice(result.status());
    outcome.state = v1::JOB_STATE_FAILED;
    outcome.error.set_code(static_cast<int>(result.status().code()));
    outcome.error.set_message(std::string(result.status().message()));
  }
  return outcome;
}

absl::StatusOr<std::optional<v1::QuantizeResult>> JobRunner::FinishPublication(
    const ClaimedJob& claimed) {
  if (!claimed.publication) return std::nullopt;
  const std::string& wanted = claimed.publication->manifest_sha256;
  const std::string& output = claimed.request.output();
  const std::filesystem::path staging = publisher_.StagingDirectory(claimed.job.name());
  if (publisher_.ManifestDigest(publisher_.OutputDirectory(output)).value_or("") == wanted) {
    return claimed.publication->result;
  }
  if (publisher_.ManifestDigest(staging).value_or("") != wanted) return std::nullopt;
  QL_RETURN_IF_ERROR(publisher_.Publish(claimed.job.name(), output));
  return claimed.publication->result;
}

absl::StatusOr<v1::QuantizeResult> JobRunner::QuantizeAndPublish(const ClaimedJob& claimed,
                                                                 ThreadTeam& team,
                                                                 const std::atomic<bool>& cancel) {
  const std::string& name = claimed.job.name();
  const std::string& output = claimed.request.output();
  QL_ASSIGN_OR_RETURN(const std::optional<v1::QuantizeResult> published,
                      FinishPublication(claimed));
  if (published) return *published;

  const auto cancelled = [&] { return stop_ || cancel || claimed.cancel_requested; };
  if (cancelled()) return absl::CancelledError("cancelled before work began");
  if (options_.max_crashes > 0 && claimed.crashes >= options_.max_crashes) {
    return absl::InternalError(absl::StrCat(
        "the service's process has ended ", claimed.crashes,
        " times while it worked on this job (out of memory, or a crash); it is not tried again"));
  }
  if (publisher_.OutputExists(output)) {
    return absl::AlreadyExistsError(absl::StrCat("output: '", output, "' exists already"));
  }
  QL_ASSIGN_OR_RETURN(const QuantizeOptions options,
                      ToQuantizeOptions(claimed.request, source_root_));
  const std::filesystem::path staging = publisher_.StagingDirectory(name);
  Progress progress(*this, name);
  QL_ASSIGN_OR_RETURN(const QuantizeResult result,
                      work_(
                          options, staging, team,
                          [&](const QuantizeProgress& p) { progress.Report(p); }, cancelled));

  Publication publication;
  QL_ASSIGN_OR_RETURN(publication.manifest_sha256, publisher_.ManifestDigest(staging));
  publication.result = Describe(result, output);
  if (!Persist(name, [&] { return store_.RecordPublication(name, publication); })) {
    return absl::CancelledError("interrupted before publication");
  }
  QL_RETURN_IF_ERROR(publisher_.Publish(name, output));
  return publication.result;
}

v1::QuantizeResult JobRunner::Describe(const QuantizeResult& result,
                                       const std::string& output) const {
  v1::QuantizeResult description;
  description.set_path(publisher_.OutputDirectory(output).string());
  description.set_linear_bits_per_weight(result.manifest.linear_bits_per_weight);
  description.set_bits_per_weight(result.manifest.bits_per_weight);
  description.set_packed_bytes(result.manifest.packed_bytes);
  *description.mutable_elapsed() = ToProto(result.elapsed);
  if (result.quality) *description.mutable_quality() = QualityMessage(*result.quality);
  return description;
}

absl::Status JobRunner::Settle(const std::string& job, const Outcome& outcome) {
  switch (outcome.state) {
    case v1::JOB_STATE_SUCCEEDED:
      return store_.Succeed(job, outcome.result);
    case v1::JOB_STATE_CANCELLED:
      return store_.MarkCancelled(job);
    default:
      return store_.Fail(job, outcome.error);
  }
}

bool JobRunner::Persist(const std::string& job, const std::function<absl::Status()>& write) {
  while (true) {
    const absl::Status status = write();
    // FAILED_PRECONDITION: an earlier try was committed after all.
    if (status.ok() || absl::IsFailedPrecondition(status)) return true;
    LogError("cannot write to the job store, trying again",
             {{"job", job}, {"error", status.ToString()}});
    if (!SleepUnlessStopped(kRetryInterval)) return false;
  }
}

}  // namespace quantloom
