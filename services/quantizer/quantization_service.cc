#include "services/quantizer/quantization_service.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "services/common/access_interceptor.h"
#include "services/common/message_bytes.h"
#include "services/common/rpc_status.h"
#include "services/quantizer/quantize_request.h"

namespace quantloom {
namespace {

constexpr int kPoolThreads = 4;
constexpr size_t kMaxWaitingCalls = 1024;
constexpr int kDefaultPageSize = 50;
constexpr int kMaxPageSize = 1000;
// What a client is told when the queue of jobs is full: jobs take minutes.
constexpr absl::Duration kFullQueueRetryDelay = absl::Seconds(30);

// `prefix` and 48 random bits: with a million names the odds of any two being equal are 1 in 500;
// the store refuses the second one.
std::string RandomName(absl::string_view prefix) {
  absl::BitGen random;
  const auto bits = absl::Uniform<uint64_t>(random, 0, uint64_t{1} << 48);
  return absl::StrCat(prefix, absl::Hex(bits, absl::kZeroPad12));
}

absl::Status CheckRequired(const std::string& name) {
  return name.empty() ? InvalidField("name", "is required") : absl::OkStatus();
}

}  // namespace

QuantizationServiceImpl::QuantizationServiceImpl(int64_t max_queued_jobs, ConfinedRoot source_root,
                                                 Publisher publisher, ResolveFunction resolve,
                                                 JobStore& store, EventSignal& signal,
                                                 JobRunner& runner, Evaluator& evaluator)
    : max_queued_jobs_(max_queued_jobs),
      source_root_(std::move(source_root)),
      publisher_(std::move(publisher)),
      resolve_(std::move(resolve)),
      store_(store),
      signal_(signal),
      runner_(runner),
      evaluator_(evaluator),
      pool_(kPoolThreads, kMaxWaitingCalls) {}

absl::Status QuantizationServiceImpl::CheckAdmitting() const {
  return admitting_ ? absl::OkStatus() : absl::UnavailableError("the service is stopping");
}

void QuantizationServiceImpl::StopAdmitting() {
  std::vector<std::weak_ptr<EventStream>> streams;
  {
    const std::lock_guard lock(streams_mutex_);
    admitting_ = false;
    streams.swap(streams_);
  }
  for (const auto& weak : streams) {
    if (const auto stream = weak.lock()) {
      stream->End(
          absl::UnavailableError("the service is stopping; the job goes on when it is back"));
    }
  }
  evaluator_.Stop();
}

void QuantizationServiceImpl::Remember(const std::shared_ptr<EventStream>& stream) {
  const std::lock_guard lock(streams_mutex_);
  streams_.erase(std::remove_if(streams_.begin(), streams_.end(),
                                [](const auto& weak) { return weak.expired(); }),
                 streams_.end());
  streams_.push_back(stream);
}

template <typename Request, typename Begin>
grpc::ServerWriteReactor<grpc::ByteBuffer>* QuantizationServiceImpl::StartStream(
    const grpc::CallbackServerContext& context, const grpc::ByteBuffer& bytes, Begin begin) {
  const std::shared_ptr<EventStream> stream = EventStream::Start(context, store_, signal_);
  Remember(stream);
  const auto request = std::make_shared<Request>();
  // After Remember: a stream that StopAdmitting did not see sees what it did.
  if (const absl::StatusOr<Caller> caller = CallerOf(context); !caller.ok()) {
    stream->End(caller.status());
  } else if (const absl::Status status = CheckAdmitting(); !status.ok()) {
    stream->End(status);
  } else if (const absl::Status parsed = DecodeMessage(bytes, *request); !parsed.ok()) {
    stream->End(parsed);
  } else if (!pool_.TryRun(
                 [stream, request, begin = std::move(begin)] { begin(*request, *stream); })) {
    stream->End(QueueFullStatus());
  }
  return stream.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* QuantizationServiceImpl::Quantize(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StartStream<v1::QuantizeRequest>(
      *context, *request, [this](const v1::QuantizeRequest& parsed, EventStream& stream) {
        const absl::StatusOr<v1::Job> job = Admit(parsed, stream.record());
        if (!job.ok()) return stream.End(job.status());
        stream.record().Note({"job", job->name()});
        stream.Follow(job->name(), 1);
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* QuantizationServiceImpl::WatchJob(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StartStream<v1::WatchJobRequest>(
      *context, *request, [](const v1::WatchJobRequest& parsed, EventStream& stream) {
        const absl::Status status = CheckRequired(parsed.name());
        status.ok() ? stream.Follow(parsed.name(), parsed.from_sequence()) : stream.End(status);
      });
}

absl::StatusOr<v1::Job> QuantizationServiceImpl::Admit(const v1::QuantizeRequest& request,
                                                       const CallRecord& record) {
  QL_RETURN_IF_ERROR(CheckAdmitting());
  const std::string fingerprint = RequestFingerprint(request);
  v1::QuantizeRequest named = request;
  if (request.request_id().empty()) {
    named.set_request_id(RandomName("request-"));
  } else {
    QL_RETURN_IF_ERROR(WithField(CheckIdentifier(request.request_id()), "request_id"));
    // Before anything else is looked at: a known request stays known when its source is gone.
    QL_ASSIGN_OR_RETURN(std::optional<v1::Job> known,
                        store_.FindRequest(request.request_id(), fingerprint));
    if (known) return *std::move(known);
  }
  NewJob job{RandomName("job-"), fingerprint, {}};
  QL_ASSIGN_OR_RETURN(job.request, AcceptRequest(named, source_root_));
  if (publisher_.OutputExists(job.request.output())) {
    return WithField(
        absl::AlreadyExistsError(absl::StrCat("'", job.request.output(), "' exists already")),
        "output");
  }
  QL_ASSIGN_OR_RETURN(QuantizeOptions options, ToQuantizeOptions(job.request, source_root_));
  QL_RETURN_IF_ERROR(AttributeToField(resolve_(options)));
  if (job.request.has_evaluation()) {
    job.request.mutable_evaluation()->set_window_tokens(options.evaluation_window_tokens);
  }

  absl::StatusOr<v1::Job> created = store_.Create(job, max_queued_jobs_);
  if (created.ok()) {
    LogInfo("job admitted", {{"job", created->name()},
                             {"request_id", record.request_id()},
                             {"trace_id", record.trace().trace_id}});
    runner_.Wake();
  } else if (absl::IsResourceExhausted(created.status())) {
    return WithRetryDelay(created.status(), kFullQueueRetryDelay);
  }
  return created;
}

grpc::ServerUnaryReactor* QuantizationServiceImpl::GetJob(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return RunUnary<v1::GetJobRequest>(
      *context, *request, response, pool_,
      [this](const v1::GetJobRequest& parsed, const UnaryCall&) -> absl::StatusOr<v1::Job> {
        QL_RETURN_IF_ERROR(CheckAdmitting());
        QL_RETURN_IF_ERROR(CheckRequired(parsed.name()));
        return store_.Get(parsed.name());
      });
}

grpc::ServerUnaryReactor* QuantizationServiceImpl::ListJobs(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* response) {
  return RunUnary<v1::ListJobsRequest>(
      *context, *request, response, pool_,
      [this](const v1::ListJobsRequest& parsed, const UnaryCall&) { return List(parsed); });
}

grpc::ServerUnaryReactor* QuantizationServiceImpl::CancelJob(grpc::CallbackServerContext* context,
                                                             const grpc::ByteBuffer* request,
                                                             grpc::ByteBuffer* response) {
  return RunUnary<v1::CancelJobRequest>(
      *context, *request, response, pool_,
      [this](const v1::CancelJobRequest& parsed, const UnaryCall&) { return Cancel(parsed); });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* QuantizationServiceImpl::Evaluate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return evaluator_.Start(*context, *request);
}

absl::StatusOr<v1::ListJobsResponse> QuantizationServiceImpl::List(
    const v1::ListJobsRequest& request) {
  QL_RETURN_IF_ERROR(CheckAdmitting());
  if (request.page_size() < 0 || request.page_size() > kMaxPageSize) {
    return InvalidField("page_size",
                        absl::StrCat(request.page_size(), " is outside 0 .. ", kMaxPageSize));
  }
  std::vector<v1::JobState> states;
  for (int i = 0; i < request.states_size(); ++i) {
    const v1::JobState state = request.states(i);
    if (state == v1::JOB_STATE_UNSPECIFIED || !v1::JobState_IsValid(state)) {
      return InvalidField(absl::StrCat("states[", i, "]"), "is not a state of jobs");
    }
    states.push_back(state);
  }
  const int limit = request.page_size() == 0 ? kDefaultPageSize : request.page_size();
  QL_ASSIGN_OR_RETURN(JobStore::Page page, store_.List(states, limit, request.page_token()));
  v1::ListJobsResponse response;
  for (v1::Job& job : page.jobs) *response.add_jobs() = std::move(job);
  response.set_next_page_token(std::move(page.next_token));
  return response;
}

absl::StatusOr<v1::Job> QuantizationServiceImpl::Cancel(const v1::CancelJobRequest& request) {
  QL_RETURN_IF_ERROR(CheckAdmitting());
  QL_RETURN_IF_ERROR(CheckRequired(request.name()));
  QL_ASSIGN_OR_RETURN(v1::Job job, store_.RequestCancel(request.name()));
  runner_.Cancel(request.name());
  return job;
}

}  // namespace quantloom
