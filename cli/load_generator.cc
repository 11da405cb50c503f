#include "cli/load_generator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/time/clock.h"
#include "cli/connection.h"
#include "cli/rpc_error.h"
#include "cli/units.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"

namespace quantloom::cli {

using ::quantloom::v1::GenerateResponse;

namespace {

constexpr double kShowPause = 0.1;  // seconds
// A stream that was refused, or found no server, waits at least so long.
constexpr double kRefusedPause = 0.1;

}  // namespace

// One request in flight. gRPC's until OnDone.
class LoadGenerator::Stream final : public grpc::ClientReadReactor<GenerateResponse> {
 public:
  Stream(LoadGenerator& generator, Workload::Item item, double due, bool measured)
      : generator_(generator), item_(std::move(item)) {
    record_.due = due;
    record_.measured = measured;
    record_.prompt_tokens = static_cast<uint32_t>(item_.request.prompt_tokens().ids_size());
  }

  void Begin() {
    if (generator_.schedule_.timeout < absl::InfiniteDuration()) {
      SetDeadline(context_, absl::Now() + generator_.schedule_.timeout);
    }
    record_.sent = generator_.Now();
    generator_.stub_.async()->Generate(&context_, &item_.request, this);
    given_up_ = item_.cancel_after == 0;
    const bool cancel = given_up_;
    StartRead(&response_);
    StartCall();
    if (cancel) context_.TryCancel();
  }

  // Any thread, while somebody shares this object.
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.tokens_size() > 0) TakeTokens(static_cast<uint32_t>(response_.tokens_size()));
    if (response_.has_usage()) TakeUsage();
    if (item_.cancel_after.has_value() && !record_.finished &&
        record_.generated_tokens >= *item_.cancel_after) {
      given_up_ = true;
      context_.TryCancel();
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    record_.end = generator_.Now();
    record_.code = status.error_code();
    // An answer that was whole before it was given up is not cancelled.
    record_.cancelled = given_up_ && status.error_code() == grpc::StatusCode::CANCELLED;
    const absl::Status error = FromGrpc(status);
    double pause = 0;
    if (!status.ok() && !record_.cancelled) {
      pause = std::max(kRefusedPause,
                       absl::ToDoubleSeconds(RetryDelay(error).value_or(absl::ZeroDuration())));
    }
    generator_.Ended(*this, record_, status.error_message(), pause);
  }

  std::vector<float> TakeGaps() { return std::move(gaps_); }

 private:
  // The gap before a response with several tokens is shared by them.
  void TakeTokens(uint32_t count) {
    const double now = generator_.Now();
    if (record_.generated_tokens == 0) {
      record_.first_token = now;
    } else if (record_.measured) {
      gaps_.insert(gaps_.end(), count, static_cast<float>((now - last_token_) / count));
    }
    last_token_ = now;
    record_.generated_tokens += count;
    generator_.AddTokens(now, count);
  }

  void TakeUsage() {
    record_.finished = true;
    record_.prompt_tokens = response_.usage().prompt_tokens();
    record_.cached_tokens = response_.usage().cached_tokens();
    record_.queue_time = absl::ToDoubleSeconds(ToDuration(response_.usage().queue_time()));
  }

  LoadGenerator& generator_;
  const Workload::Item item_;
  grpc::ClientContext context_;
  GenerateResponse response_;
  RequestRecord record_;
  bool given_up_ = false;
  double last_token_ = 0;
  std::vector<float> gaps_;
};

LoadGenerator::LoadGenerator(quantloom::v1::GenerationService::Stub& stub, const Workload& workload,
                             const LoadSchedule& schedule)
    : stub_(stub), workload_(workload), schedule_(schedule), random_(schedule.seed) {
  for (uint32_t i = 0; i < schedule.streams; ++i) ready_.push(0);
}

double LoadGenerator::Now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

// Whether nothing that is due at this time, or later, is sent.
bool LoadGenerator::Exhausted(double due) const {
  return measured_ >= schedule_.requests || due >= schedule_.warmup + schedule_.duration;
}

// Called with the lock.
LoadGenerator::Next LoadGenerator::NextRequest() const {
  if (schedule_.streams == 0) {
    return {.due = next_arrival_, .ready = in_flight_.size() < schedule_.max_in_flight};
  }
  if (ready_.empty()) return {.due = Now(), .ready = false};
  return {.due = ready_.top(), .ready = true};
}

void LoadGenerator::Start(double due) {
  const bool measured = due >= schedule_.warmup;
  auto stream = std::make_shared<Stream>(*this, workload_.Make(sent_), due, measured);
  ++sent_;
  if (measured) ++measured_;
  {
    const std::lock_guard lock(mutex_);
    if (schedule_.streams > 0) ready_.pop();
    in_flight_.emplace(stream.get(), stream);
    if (stopped_) stream->Cancel();
  }
  if (schedule_.streams == 0) {
    next_arrival_ += schedule_.poisson
                         ? std::exponential_distribution<double>(schedule_.rate)(random_)
                         : 1 / schedule_.rate;
  }
  stream->Begin();
}

LoadResult LoadGenerator::Run(const std::function<void(const Progress&)>& show) {
  double next_show = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    const double now = Now();
    if (now >= next_show) {
      next_show = now + kShowPause;
      const Progress progress = {.elapsed = now,
                                 .ended = result_.requests.size(),
                                 .failed = failed_,
                                 .in_flight = static_cast<uint32_t>(in_flight_.size()),
                                 .generated_tokens = generated_tokens_};
      lock.unlock();
      show(progress);
      lock.lock();
    }
    const Next next = NextRequest();
    const bool exhausted = stopped_ || Exhausted(next.due);
    if (exhausted && in_flight_.empty()) break;
    if (!exhausted && next.ready && next.due <= now) {
      lock.unlock();
      Start(next.due);
      lock.lock();
      continue;
    }
    const double wake = exhausted || !next.ready ? next_show : std::min(next.due, next_show);
    changed_.wait_until(lock, start_ + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                           std::chrono::duration<double>(wake)));
  }
  result_.warmup = schedule_.warmup;
  result_.end = std::min(Now(), schedule_.warmup + schedule_.duration);
  if (stopped_) result_.end = std::min(result_.end, result_.stopped_at);
  return std::move(result_);
}

void LoadGenerator::Stop() {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    stopped_ = true;
    result_.stopped = true;
    result_.stopped_at = Now();
    for (const auto& [key, stream] : in_flight_) streams.push_back(stream);
    changed_.notify_all();
  }
  for (const auto& stream : streams) stream->Cancel();
}

void LoadGenerator::AddTokens(double time, uint32_t count) {
  const auto tick = static_cast<size_t>(time / LoadResult::kTick);
  const std::lock_guard lock(mutex_);
  generated_tokens_ += count;
  if (result_.generated_by_tick.size() <= tick) result_.generated_by_tick.resize(tick + 1);
  result_.generated_by_tick[tick] += count;
}

void LoadGenerator::Ended(Stream& stream, RequestRecord record, const std::string& message,
                          double pause_seconds) {
  const std::vector<float> gaps = stream.TakeGaps();
  std::shared_ptr<Stream> keep;  // destroyed without the lock
  const std::lock_guard lock(mutex_);
  const auto found = in_flight_.find(&stream);
  keep = std::move(found->second);
  in_flight_.erase(found);
  record.stopped = stopped_ && record.code == grpc::StatusCode::CANCELLED && !record.cancelled;
  if (record.code != grpc::StatusCode::OK && !record.cancelled && !record.stopped) {
    ++failed_;
    result_.messages.emplace(record.code, message);
  }
  if (record.code == grpc::StatusCode::OK) {
    result_.gaps.insert(result_.gaps.end(), gaps.begin(), gaps.end());
  }
  if (schedule_.streams > 0) ready_.push(record.end + pause_seconds);
  result_.requests.push_back(record);
  changed_.notify_all();
}

}  // namespace quantloom::cli
