#include "engine/generation.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/time/clock.h"
#include "core/base/status.h"
#include "engine/generation_request.h"
#include "engine/model.h"
#include "engine/scheduler.h"

namespace quantloom {
namespace {

// How often Score asks its caller whether to go on.
constexpr auto kCancelPoll = std::chrono::milliseconds(20);

Scheduler::Limits ToSchedulerLimits(const GenerationEngine::Limits& limits) {
  Scheduler::Limits scheduler;
  scheduler.max_running = limits.max_running;
  scheduler.step_tokens = limits.step_tokens;
  scheduler.prefill_chunk = limits.prefill_chunk;
  return scheduler;
}

class Engine final : public GenerationEngine {
 public:
  Engine(std::shared_ptr<const LoadedModel> model, std::unique_ptr<KvCache> kv,
         Model::WorkspacePtr workspace, const Limits& limits,
         const Scheduler::Limits& scheduler_limits, FailureCallback on_failure)
      : model_(std::move(model)),
        limits_(limits),
        kv_(std::move(kv)),
        scheduler_(scheduler_limits, kv_->blocks()),
        workspace_(std::move(workspace)),
        on_failure_(std::move(on_failure)),
        mailbox_(std::make_shared<Mailbox>()) {
    stats_.kv_blocks_total = kv_->blocks().total();
    thread_ = std::thread([this] { Run(); });
  }
  ~Engine() override {
    Stop(/*end_requests=*/true);
    thread_.join();
  }

  absl::StatusOr<std::shared_ptr<GenerationStream>> Submit(GenerationRequest request,
                                                           EventCallback callback) override;
  absl::StatusOr<std::vector<ScoredToken>> Score(const std::vector<int32_t>& tokens,
                                                 const ScoreOptions& options) override;
  void Drain(absl::Time deadline) override;
  EngineStats stats() const override {
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    EngineStats stats = stats_;
    stats.requests_waiting = admitted_ - std::min(admitted_, stats.requests_running);
    return stats;
  }
  std::optional<std::vector<RequestSnapshot>> Snapshot(size_t most, absl::Time deadline) override;
  const LoadedModel& model() const override { return *model_; }

 private:
  // A step that the device was given and nobody has seen the results of.
  struct StepInFlight {
    // A request's.
    struct Part {
      Scheduler::Slice slice;
      size_t wanted;     // rows
      bool is_chosen;    // a token, by the device; else the rows' logits are wanted
      size_t first_row;  // of those, among rows of the same kind
    };
    std::vector<Part> parts;  // of requests that have not ended
    size_t logit_rows = 0;    // selected rows that logits are wanted of; those that tokens are
                              // chosen after follow
    bool prefills = false;
    EngineStats counts;
  };

  // A snapshot that somebody waits for.
  struct Inquiry {
    size_t most;
    std::promise<std::vector<RequestSnapshot>> answer;
  };

  absl::Status Enqueue(std::shared_ptr<ActiveRequest> request);
  void Stop(bool end_requests);

  // The engine's thread.
  void Run();
  bool TakeMail();  // false when it is time to exit
  void AnswerInquiries();
  void WaitForMail();
  void EndUnwanted();
  void StartStep(const Scheduler::Step& step);
  // Waits for the oldest step in flight, and gives its requests what came of it.
  void FinishStep();
  // Once the tokens that the step last started runs are known: what it computes counts as computed,
  // since whatever is started later runs later. It stays in flight if that is worth it.
  void GoOn();
  // The device has failed: ends every request, and admits no others.
  void Fail(const absl::Status& failure);
  void EndAll(const absl::Status& status);
  void CountStep(const EngineStats& counts);
  void PublishStats();
  void PublishStatsLocked();
  void Retire(ActiveRequest& request, GenerationEvent event);

  std::shared_ptr<const LoadedModel> model_;
  Limits limits_;

  // Touched by the engine's thread alone.
  std::unique_ptr<KvCache> kv_;
  Scheduler scheduler_;
  Model::WorkspacePtr workspace_;
  std::deque<StepInFlight> in_flight_;  // at most two, the oldest first
  std::vector<std::shared_ptr<ActiveRequest>> requests_;
  bool ending_ = false;         // every request ends UNAVAILABLE
  FailureCallback on_failure_;  // until it has been called

  std::shared_ptr<Mailbox> mailbox_;
  // Guarded by mailbox_->mutex.
  std::vector<std::shared_ptr<ActiveRequest>> incoming_;
  std::vector<std::shared_ptr<Inquiry>> inquiries_;
  bool draining_ = false;
  bool end_requests_ = false;
  bool exit_ = false;
  absl::Status failure_;   // UNAVAILABLE once the device has failed
  uint32_t admitted_ = 0;  // requests that run or wait
  std::unordered_map<std::string, uint32_t> client_requests_;  // of those, by client
  uint32_t live_ = 0;  // those and the ones whose last event is being delivered
  EngineStats stats_;
  std::condition_variable ended_;  // live_ fell

  std::thread thread_;
};

// --- Any thread

absl::Status Engine::Enqueue(std::shared_ptr<ActiveRequest> request) {
  {
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    if (draining_) return absl::UnavailableError("the engine is shutting down");
    QL_RETURN_IF_ERROR(failure_);
    if (admitted_ >= uint64_t{limits_.max_running} + limits_.max_waiting) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", admitted_, " requests running or waiting"));
    }
    uint32_t& of_client = client_requests_[request->standing.client];
    if (limits_.max_client_requests != 0 && of_client >= limits_.max_client_requests) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the client has ", of_client, " requests running or waiting"));
    }
    ++of_client;
    ++admitted_;
    ++live_;
    incoming_.push_back(std::move(request));
  }
  mailbox_->Wake();
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<GenerationStream>> Engine::Submit(GenerationRequest request,
                                                                 EventCallback callback) {
  const uint64_t capacity = uint64_t{kv_->blocks().total()} * kv_->blocks().block_tokens();
  QL_RETURN_IF_ERROR(CheckAndBound(request, model_->config(), capacity));
  auto active = std::make_shared<GeneratingRequest>(std::move(request), model_->config(),
                                                    model_->tokenizer(), std::move(callback));
  auto stream = std::make_shared<RequestStream>(active->control(), mailbox_);
  QL_RETURN_IF_ERROR(Enqueue(std::move(active)));
  return stream;
}

absl::StatusOr<std::vector<GenerationEngine::ScoredToken>> Engine::Score(
    const std::vector<int32_t>& tokens, const ScoreOptions& options) {
  const uint64_t capacity = uint64_t{kv_->blocks().total()} * kv_->blocks().block_tokens();
  QL_RETURN_IF_ERROR(CheckScored(tokens, options, model_->config(), capacity));
  if (tokens.size() == 1) return std::vector<ScoredToken>();  // nothing precedes its only token

  // Shared with the engine's thread, which may outlive this call's interest by one event.
  struct Outcome {
    std::mutex mutex;
    std::condition_variable ready;
    std::optional<absl::Status> status;
  };
  auto outcome = std::make_shared<Outcome>();
  auto active =
      std::make_shared<ScoringRequest>(tokens, options, [outcome](const GenerationEvent& event) {
        std::lock_guard<std::mutex> lock(outcome->mutex);
        outcome->status = event.status;
        outcome->ready.notify_all();
      });
  RequestStream stream(active->control(), mailbox_);
  QL_RETURN_IF_ERROR(Enqueue(active));

  std::unique_lock<std::mutex> lock(outcome->mutex);
  while (!outcome->ready.wait_for(lock, kCancelPoll, [&] { return outcome->status.has_value(); })) {
    if (options.cancelled && options.cancelled()) stream.Cancel();
  }
  QL_RETURN_IF_ERROR(*outcome->status);
  return active->TakeScores();
}

std::optional<std::vector<RequestSnapshot>> Engine::Snapshot(size_t most, absl::Time deadline) {
  const auto inquiry = std::make_shared<Inquiry>();
  inquiry->most = most;
  std::future<std::vector<RequestSnapshot>> answer = inquiry->answer.get_future();
  {
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    inquiries_.push_back(inquiry);
  }
  mailbox_->Wake();
  if (deadline == absl::InfiniteFuture()) return answer.get();
  if (answer.wait_until(absl::ToChronoTime(deadline)) != std::future_status::ready) {
    return std::nullopt;
  }
  return answer.get();
}

void Engine::Stop(bool end_requests) {
  {
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    draining_ = true;
    end_requests_ = end_requests_ || end_requests;
    exit_ = exit_ || end_requests;
  }
  mailbox_->Wake();
}

void Engine::Drain(absl::Time deadline) {
  std::unique_lock<std::mutex> lock(mailbox_->mutex);
  draining_ = true;
  const auto all_ended = [&] { return live_ == 0; };
  if (deadline == absl::InfiniteFuture()) {
    ended_.wait(lock, all_ended);
    return;
  }
  if (ended_.wait_until(lock, absl::ToChronoTime(deadline), all_ended)) return;
  end_requests_ = true;
  lock.unlock();
  mailbox_->Wake();
  lock.lock();
  ended_.wait(lock, all_ended);
}

// --- The engine's thread

void Engine::Run() {
  while (TakeMail()) {
    EndUnwanted();
    AnswerInquiries();
    const Scheduler::Step step = scheduler_.NextStep();
    PublishStats();
    for (const BlockCopy& copy : step.copies) {
      model_->model().backend().CopyKvBlock(copy.from, copy.to, kv_->storage());
    }
    if (step.slices.empty()) {
      if (in_flight_.empty()) {
        WaitForMail();
      } else {
        FinishStep();
      }
      continue;
    }
    StartStep(step);
    if (in_flight_.size() > 1) FinishStep();  // while the device runs the one just started
    if (!in_flight_.empty()) GoOn();          // the device has not failed
  }
  // What still runs is in vain: its requests have ended.
  for (; !in_flight_.empty(); in_flight_.pop_front()) {
    static_cast<void>(model_->model().FinishStep(/*logits=*/0, *workspace_));
  }
}

bool Engine::TakeMail() {
  std::vector<std::shared_ptr<ActiveRequest>> incoming;
  {
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    mailbox_->awake = false;
    if (exit_ && live_ == 0) return false;
    ending_ = end_requests_;
    incoming.swap(incoming_);
  }
  for (auto& request : incoming) {
    request->share_prefix = request->share_prefix && limits_.prefix_cache;
    if (limits_.isolate_clients) {
      const std::string& client = request->standing.client;
      request->salt = absl::StrCat(client.size(), ":", client, request->salt);
    }
    scheduler_.Enqueue(*request);
    requests_.push_back(std::move(request));
  }
  return true;
}

void Engine::AnswerInquiries() {
  std::vector<std::shared_ptr<Inquiry>> inquiries;
  {
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    inquiries.swap(inquiries_);
  }
  if (inquiries.empty()) return;
  // Those that hold blocks run.
  std::vector<const ActiveRequest*> requests;
  for (const auto& request : requests_) requests.push_back(request.get());
  std::stable_partition(requests.begin(), requests.end(),
                        [](const ActiveRequest* request) { return !request->blocks.empty(); });
  const absl::Time now = absl::Now();
  for (const auto& inquiry : inquiries) {
    std::vector<RequestSnapshot> snapshots;
    for (const ActiveRequest* request : requests) {
      if (snapshots.size() == inquiry->most) break;
      snapshots.push_back(request->Snapshot(now));
    }
    inquiry->answer.set_value(std::move(snapshots));
  }
}

void Engine::WaitForMail() {
  absl::Time wake = absl::InfiniteFuture();
  for (const auto& request : requests_) wake = std::min(wake, request->deadline());
  std::unique_lock<std::mutex> lock(mailbox_->mutex);
  const auto has_mail = [&] { return mailbox_->awake || (exit_ && live_ == 0); };
  if (wake == absl::InfiniteFuture()) {
    mailbox_->changed.wait(lock, has_mail);
  } else {
    mailbox_->changed.wait_until(lock, absl::ToChronoTime(wake), has_mail);
  }
}

void Engine::EndUnwanted() {
  const absl::Time now = absl::Now();
  const std::vector<std::shared_ptr<ActiveRequest>> requests = requests_;  // Retire removes
  for (const auto& request : requests) {
    request->paused = request->control()->paused.load();
    GenerationEvent event;
    if (request->control()->cancelled.load()) {
      event.status = absl::CancelledError("cancelled by the caller");
    } else if (now >= request->deadline()) {
      event.status = absl::DeadlineExceededError("the request's deadline has passed");
    } else if (ending_) {
      event.status = absl::UnavailableError("the engine is shutting down");
    } else {
      continue;
    }
    Retire(*request, std::move(event));
  }
}

void Engine::StartStep(const Scheduler::Step& step) {
  RaggedBatch batch;
  std::vector<uint32_t> rows;         // that logits are wanted of
  std::vector<uint32_t> chosen_rows;  // after which tokens are chosen
  std::vector<TokenChoice> choices;
  StepInFlight& in_flight = in_flight_.emplace_back();
  EngineStats& counts = in_flight.counts;
  const absl::Time begin = absl::Now();
  for (const Scheduler::Slice& slice : step.slices) {
    auto& request = static_cast<ActiveRequest&>(*slice.sequence);
    request.Started(begin);
    const auto row = static_cast<uint32_t>(batch.size());
    const uint32_t first_wanted = request.FirstWantedRow(slice.begin, slice.count);
    std::optional<TokenChoice> choice;
    if (first_wanted < slice.count) choice = request.Choose();
    if (choice) choices.push_back(*choice);
    std::vector<uint32_t>& of_kind = choice ? chosen_rows : rows;
    in_flight.parts.push_back({.slice = slice,
                               .wanted = slice.count - first_wanted,
                               .is_chosen = choice.has_value(),
                               .first_row = of_kind.size()});
    for (uint32_t i = first_wanted; i < slice.count; ++i) of_kind.push_back(row + i);
    batch.Add(absl::MakeConstSpan(slice.sequence->tokens).subspan(slice.begin, slice.count),
              slice.begin, slice.sequence->blocks);
    const ActiveRequest::PromptCount prompt = request.CountPrompt(slice.begin, slice.count);
    counts.prompt_tokens += prompt.computed;
    counts.prefix_hit_tokens += prompt.cached;
    in_flight.prefills |= slice.sequence->remaining() > 1;
  }
  in_flight.logit_rows = rows.size();
  rows.insert(rows.end(), chosen_rows.begin(), chosen_rows.end());
  const Model& model = model_->model();
  counts.last_batch_tokens = static_cast<uint32_t>(batch.size());
  counts.weight_bytes_read =
      model.layer_weight_bytes() + (rows.empty() ? 0 : model.head_weight_bytes());
  model.StartStep(batch, rows, choices, kv_->storage(), *workspace_);
}

void Engine::FinishStep() {
  const Model& model = model_->model();
  const absl::StatusOr<Model::StepResult> result =
      model.FinishStep(in_flight_.front().logit_rows, *workspace_);
  if (!result.ok()) return Fail(result.status());
  StepInFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  for (const StepInFlight::Part& part : step.parts) {
    if (!part.slice.sequence->scoring) {
      step.counts.generated_tokens += static_cast<uint32_t>(part.wanted);
    }
  }
  (step.prefills ? step.counts.prefill_time : step.counts.decode_time) =
      model.StepTime(*workspace_);
  CountStep(step.counts);  // before the events, so that who has seen a token finds it counted

  const size_t vocab = model_->config().vocab_size;
  for (const StepInFlight::Part& part : step.parts) {
    auto& request = static_cast<ActiveRequest&>(*part.slice.sequence);
    std::optional<GenerationEvent> last =
        part.is_chosen
            ? request.TakeChosen(result->chosen[step.logit_rows + part.first_row])
            : request.TakeLogits(
                  result->logits.subspan(part.first_row * vocab, part.wanted * vocab), vocab);
    if (last) Retire(request, *std::move(last));
  }
}

void Engine::GoOn() {
  const StepInFlight& step = in_flight_.back();
  Scheduler::Step computed;
  for (const StepInFlight::Part& part : step.parts) computed.slices.push_back(part.slice);
  scheduler_.Finished(computed);
  // Requests whose logits the host has to see cannot go on before it has.
  if (!model_->model().backend().runs_ahead() || step.logit_rows > 0) return FinishStep();
  for (const StepInFlight::Part& part : step.parts) {
    if (!part.is_chosen) continue;
    static_cast<ActiveRequest&>(*part.slice.sequence).Expect(part.first_row);
  }
}

void Engine::Fail(const absl::Status& failure) {
  // Whatever it was to the device: to requests, another server is what helps.
  const absl::Status status =
      absl::UnavailableError(absl::StrCat("the device failed: ", failure.message()));
  {
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    failure_ = status;
  }
  // Before callers learn of it: who then asks for the model's health finds it so.
  if (on_failure_) std::exchange(on_failure_, {})(failure);
  in_flight_.clear();
  EndAll(status);
}

void Engine::EndAll(const absl::Status& status) {
  const std::vector<std::shared_ptr<ActiveRequest>> requests = requests_;  // Retire removes
  for (const auto& request : requests) {
    GenerationEvent event;
    event.status = status;
    Retire(*request, std::move(event));
  }
}

void Engine::CountStep(const EngineStats& counts) {
  std::lock_guard<std::mutex> lock(mailbox_->mutex);
  ++stats_.steps;
  stats_.prompt_tokens += counts.prompt_tokens;
  stats_.prefix_hit_tokens += counts.prefix_hit_tokens;
  stats_.generated_tokens += counts.generated_tokens;
  stats_.last_batch_tokens = counts.last_batch_tokens;
  stats_.weight_bytes_read += counts.weight_bytes_read;
  stats_.prefill_time += counts.prefill_time;
  stats_.decode_time += counts.decode_time;
}

void Engine::PublishStats() {
  std::lock_guard<std::mutex> lock(mailbox_->mutex);
  PublishStatsLocked();
}

void Engine::PublishStatsLocked() {
  stats_.preemptions = scheduler_.preemptions();
  stats_.requests_running = static_cast<uint32_t>(scheduler_.running());
  stats_.kv_blocks_used = kv_->blocks().used();
  stats_.kv_blocks_cached = kv_->blocks().cached();
}

void Engine::Retire(ActiveRequest& request, GenerationEvent event) {
  const std::shared_ptr<ActiveRequest> keep = request.shared_from_this();
  scheduler_.Remove(request);
  for (StepInFlight& step : in_flight_) {
    step.parts.erase(std::remove_if(step.parts.begin(), step.parts.end(),
                                    [&](const StepInFlight::Part& part) {
                                      return part.slice.sequence == &request;
                                    }),
                     step.parts.end());
  }
  requests_.erase(std::find(requests_.begin(), requests_.end(), keep));
  {
    // Before the caller learns of the end: it finds the blocks freed, and room for its next
    // request.
    std::lock_guard<std::mutex> lock(mailbox_->mutex);
    PublishStatsLocked();
    --admitted_;
    const auto of_client = client_requests_.find(request.standing.client);
    if (--of_client->second == 0) client_requests_.erase(of_client);
  }
  request.Finish(std::move(event));
  std::lock_guard<std::mutex> lock(mailbox_->mutex);
  --live_;
  ended_.notify_all();
}

absl::Status CheckLimits(const GenerationEngine::Limits& limits) {
  const std::pair<const char*, uint32_t> positive[] = {{"max_running", limits.max_running},
                                                       {"step_tokens", limits.step_tokens},
                                                       {"prefill_chunk", limits.prefill_chunk},
                                                       {"kv_block_tokens", limits.kv_block_tokens}};
  for (const auto& [name, value] : positive) {
    if (value == 0) return absl::InvalidArgumentError(absl::StrCat(name, ": must be positive"));
  }
  if (limits.step_tokens < limits.max_running) {
    return absl::InvalidArgumentError(absl::StrCat("step_tokens: ", limits.step_tokens,
                                                   " is less than max_running (",
                                                   limits.max_running, ")"));
  }
  return absl::OkStatus();
}

uint64_t KvTokens(const ModelConfig& config, const GenerationEngine::Limits& limits) {
  if (limits.kv_tokens != 0) return limits.kv_tokens;
  return limits.max_running * std::min<uint64_t>(config.max_position, kDefaultKvTokensEach);
}

}  // namespace

GenerationEngine::Memory GenerationEngine::MemoryFor(const ModelConfig& config,
                                                     const Limits& limits) {
  const Scheduler::Limits scheduler = ToSchedulerLimits(limits);
  return {
      .kv_cache = KvCache::Bytes(config, KvTokens(config, limits), limits.kv_block_tokens,
                                 limits.kv_element),
      .activations = Model::WorkspaceBytes(config, scheduler.step_rows(), scheduler.logit_rows())};
}

absl::StatusOr<std::unique_ptr<GenerationEngine>> GenerationEngine::Create(
    std::shared_ptr<const LoadedModel> model, const Limits& limits, FailureCallback on_failure) {
  QL_RETURN_IF_ERROR(CheckLimits(limits));
  QL_ASSIGN_OR_RETURN(auto kv, KvCache::Create(model->model().backend(), model->config(),
                                               KvTokens(model->config(), limits),
                                               limits.kv_block_tokens, limits.kv_element));
  const Scheduler::Limits scheduler = ToSchedulerLimits(limits);
  Model::WorkspacePtr workspace =
      model->model().CreateWorkspace(scheduler.step_rows(), scheduler.logit_rows());
  QL_RETURN_IF_ERROR(model->model().backend().status());
  return std::make_unique<Engine>(std::move(model), std::move(kv), std::move(workspace), limits,
                                  scheduler, std::move(on_failure));
}

}  // namespace quantloom
