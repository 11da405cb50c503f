#include "services/server/generate_call.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "core/base/status.h"
#include "services/common/access_interceptor.h"
#include "services/common/call_deadline.h"
#include "services/common/message_bytes.h"
#include "services/common/proto_time.h"
#include "services/common/rpc_status.h"
#include "services/common/unary_call.h"
#include "services/server/token_message.h"

namespace quantloom {
namespace {

v1::FinishReason ToMessage(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kStopSequence:
      return v1::FINISH_REASON_STOP_SEQUENCE;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kNone:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

// Frees the input's memory; which kind it was stays known.
void ReleaseInput(v1::GenerateRequest& request) {
  if (request.has_prompt()) {
    std::string().swap(*request.mutable_prompt());
  } else if (request.has_chat()) {
    v1::Chat().Swap(request.mutable_chat());
  } else {
    v1::TokenIds().Swap(request.mutable_prompt_tokens());
  }
}

v1::PromptEcho Echo(const std::vector<int32_t>& prompt, const Tokenizer& tokenizer) {
  v1::PromptEcho echo;
  StreamingDetokenizer detokenizer(tokenizer, /*skip_special=*/false);
  for (const int32_t id : prompt) {
    echo.mutable_text()->append(detokenizer.Push(id));
    echo.add_token_ids(id);
  }
  echo.mutable_text()->append(detokenizer.Flush());
  return echo;
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateCall::Start(
    const grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
    GenerateEnvironment& environment) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(context, environment));
  call->self_ = call;
  absl::Status status = call->Admit(request);
  if (status.ok() && !environment.pool.TryRun([call] { call->Submit(); })) {
    status = QueueFullStatus();
  }
  if (!status.ok()) call->End(status);
  return call.get();
}

GenerateCall::GenerateCall(const grpc::CallbackServerContext& context,
                           GenerateEnvironment& environment)
    : environment_(environment),
      arrival_(absl::Now()),
      deadline_(CallDeadline(context)),
      caller_(CallerOf(context)),
      record_(CallRecord::Of(context)) {}

absl::Status GenerateCall::Admit(const grpc::ByteBuffer& request) {
  QL_RETURN_IF_ERROR(caller_.status());
  QL_RETURN_IF_ERROR(DecodeMessage(request, request_));
  QL_ASSIGN_OR_RETURN(model_, environment_.models.Acquire(request_.model()));
  record_->Note({"model", model_->name});
  return CheckGenerateRequest(request_, *model_->loaded, environment_.limits);
}

void GenerateCall::Submit() {
  std::unique_lock<std::mutex> lock(mutex_);
  const ModelRegistry::Lease model = model_;
  const bool given_up = given_up_ || absl::Now() >= deadline_;
  lock.unlock();
  if (given_up) return End(GivenUpStatus(deadline_));

  auto request = EncodeGenerateRequest(request_, *model->loaded, *caller_);
  if (!request.ok()) return End(request.status());
  if (request_.echo()) echo_ = Echo(request->prompt, model->loaded->tokenizer());
  ReleaseInput(request_);
  request->deadline = deadline_;
  request->request_id = record_->request_id();
  seed_ = request->sampling.seed;
  metrics_.emplace(environment_.metrics.ForModel(model->name));
  auto stream = model->engine->Submit(
      *std::move(request), [call = self_](const GenerationEvent& event) { call->OnEvent(event); });
  if (!stream.ok()) {
    absl::Status status = NameRequestField(stream.status(), request_);
    if (absl::IsResourceExhausted(status)) status = QueueFullStatus();
    return End(status);
  }
  lock.lock();
  if (ending_.has_value()) return;  // the last event came before Submit returned
  stream_ = *std::move(stream);
  if (paused_) stream_->SetPaused(true);
  if (given_up_) stream_->Cancel();
}

void GenerateCall::OnEvent(const GenerationEvent& event) {
  Observe(event);
  if (event.last()) {
    absl::Status status = event.status;
    std::unique_lock<std::mutex> lock(mutex_);
    if (status.ok() && !given_up_) Gather(event);
    lock.unlock();
    if (absl::IsCancelled(status)) status = GivenUpStatus(deadline_);
    return End(status);
  }
  std::unique_lock<std::mutex> lock(mutex_);
  if (given_up_) return;
  Gather(event);
  if (gathered_.tokens_size() >= kMaxGatheredTokens && !paused_) {
    paused_ = true;
    if (stream_ != nullptr) stream_->SetPaused(true);
  }
  Advance(std::move(lock));
}

void GenerateCall::Observe(const GenerationEvent& event) {
  if (event.token.has_value()) {
    const absl::Time now = absl::Now();
    if (last_token_ == absl::InfinitePast()) {
      metrics_->time_to_first_token.Observe(absl::ToDoubleSeconds(now - arrival_));
    } else {
      metrics_->inter_token_latency.Observe(absl::ToDoubleSeconds(now - last_token_));
    }
    last_token_ = now;
  }
  if (!event.last()) return;
  metrics_->queue_time.Observe(absl::ToDoubleSeconds(event.queue_time));
  record_->Note({"prompt_tokens", event.prompt_tokens});
  record_->Note({"cached_tokens", event.cached_tokens});
  record_->Note({"generated_tokens", event.generated_tokens});
  record_->Note({"queue_seconds", absl::ToDoubleSeconds(event.queue_time)});
}

void GenerateCall::Gather(const GenerationEvent& event) {
  has_gathered_ = true;
  if (echo_.has_value()) {
    *gathered_.mutable_echo() = *std::move(echo_);
    echo_.reset();
  }
  gathered_.mutable_text()->append(event.text);
  if (event.token.has_value()) {
    v1::GeneratedToken& token = *gathered_.add_tokens();
    token.set_id(*event.token);
    if (request_.logprobs() > 0) token.set_logprob(event.logprob);
    AddTopTokens(event.top, model_->loaded->tokenizer(), token);
  }
  if (!event.last()) return;
  gathered_.set_finish_reason(ToMessage(event.finish));
  gathered_.set_stop_sequence(event.stop_sequence);
  v1::Usage& usage = *gathered_.mutable_usage();
  usage.set_prompt_tokens(event.prompt_tokens);
  usage.set_cached_tokens(event.cached_tokens);
  usage.set_generated_tokens(event.generated_tokens);
  *usage.mutable_queue_time() = ToProto(event.queue_time);
  *usage.mutable_prefill_time() = ToProto(event.prefill_time);
  usage.set_seed(seed_);
}

// Nothing more will come: what is gathered is still written, then the call ends with `status`.
void GenerateCall::End(const absl::Status& status) {
  ModelRegistry::Lease model;
  std::shared_ptr<GenerationStream> stream;
  std::unique_lock<std::mutex> lock(mutex_);
  ending_ = status;
  model = std::move(model_);
  stream = std::move(stream_);
  Advance(std::move(lock));
}

// Starts the next operation, if one is due and none is in flight. Operations start outside the
// lock: gRPC may run their reactions, and with Finish even OnDone, before they return.
void GenerateCall::Advance(std::unique_lock<std::mutex> lock) {
  if (writing_ || finished_) return;
  const bool last = ending_.has_value();
  if (has_gathered_ && !given_up_) {
    written_ = EncodeMessage(gathered_);
    gathered_.Clear();
    has_gathered_ = false;
    writing_ = true;
    if (paused_) {
      paused_ = false;
      if (stream_ != nullptr) stream_->SetPaused(false);
    }
    if (!last || !ending_->ok()) {
      lock.unlock();
      return StartWrite(&written_);
    }
    finished_ = true;
    lock.unlock();
    return StartWriteAndFinish(&written_, grpc::WriteOptions(), grpc::Status::OK);
  }
  if (!last) return;
  finished_ = true;
  const grpc::Status status = ToGrpcStatus(given_up_ ? GivenUpStatus(deadline_) : *ending_);
  lock.unlock();
  Finish(status);
}

void GenerateCall::OnWriteDone(bool ok) {
  std::unique_lock<std::mutex> lock(mutex_);
  writing_ = false;
  if (!ok) {
    given_up_ = true;
    if (stream_ != nullptr) stream_->Cancel();
  }
  Advance(std::move(lock));
}

void GenerateCall::OnCancel() {
  std::unique_lock<std::mutex> lock(mutex_);
  given_up_ = true;
  if (stream_ != nullptr) stream_->Cancel();
}

void GenerateCall::OnDone() {
  // Released at the end of this function, when it may be the last share.
  const std::shared_ptr<GenerateCall> self = std::move(self_);
}

}  // namespace quantloom
