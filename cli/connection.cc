#include "cli/connection.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/support/channel_arguments.h"

namespace quantloom::cli {
namespace {

constexpr int kFirstReconnectMs = 250;
constexpr int kLongestReconnectMs = 10'000;
// gRPC gives an attempt to connect this long, too: a busy machine needs more than the first pause.
constexpr int kConnectMs = 5'000;
// Servers by default refuse pings that come more often than every five minutes.
constexpr int kKeepaliveMs = 330'000;

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  // Token lists and log-probabilities of a long text pass the default of 4 MiB; the server bounds
  // what it sends.
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestReconnectMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  return arguments;
}

}  // namespace

Connection::Connection(ConnectionOptions options, ChannelSecurity security,
                       std::function<void(std::string_view)> note,
                       std::function<void(const absl::Status&, absl::Duration)> on_wait)
    : options_(std::move(options)),
      security_(std::move(security)),
      note_(std::move(note)),
      on_wait_(std::move(on_wait)) {}

std::shared_ptr<grpc::Channel> Connection::Open(const std::string& address) const {
  if (ExposesToken(address, security_)) {
    note_(absl::StrCat("warning: the token travels to ", address, " unencrypted; see --tls"));
  }
  return OpenChannel(address, Arguments(), security_);
}

quantloom::v1::QuantizationService::Stub& Connection::quantization() {
  if (quantization_ == nullptr) {
    quantization_ = quantloom::v1::QuantizationService::NewStub(Open(options_.quantizer));
  }
  return *quantization_;
}

quantloom::v1::GenerationService::Stub& Connection::generation() {
  if (generation_ == nullptr) {
    generation_ = quantloom::v1::GenerationService::NewStub(Open(options_.server));
  }
  return *generation_;
}

quantloom::v1::ModelService::Stub& Connection::models() {
  if (models_ == nullptr) {
    models_ = quantloom::v1::ModelService::NewStub(Open(options_.server));
  }
  return *models_;
}

absl::Time Connection::Deadline(absl::Duration otherwise) const {
  return absl::Now() + (options_.timeout > absl::ZeroDuration() ? options_.timeout : otherwise);
}

absl::Status Connection::Unreachable(Service service, const absl::Status& status) const {
  const bool quantizer = service == Service::kQuantizer;
  absl::Status named = absl::UnavailableError(
      absl::StrCat(quantizer ? "quantizer at " : "server at ",
                   quantizer ? options_.quantizer : options_.server, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { named.SetPayload(url, payload); });
  return named;
}

absl::Status Connection::Retry(Service service, const std::function<absl::Status()>& attempt) {
  for (int tries = 0;; ++tries) {
    absl::Status status = attempt();
    const std::optional<absl::Duration> asked = RetryDelay(status);
    const bool again =
        (absl::IsResourceExhausted(status) && asked.has_value()) || absl::IsUnavailable(status);
    if (!again || tries >= options_.retries || cancellation_.cancelled()) {
      return absl::IsUnavailable(status) ? Unreachable(service, status) : status;
    }
    const absl::Duration pause = asked.value_or(Backoff(tries));
    on_wait_(status, pause);
    if (!cancellation_.SleepFor(pause)) return absl::CancelledError("interrupted");
  }
}

absl::Duration Backoff(int attempt) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  const int doublings = std::clamp(attempt, 0, 16);
  const absl::Duration pause = std::min(absl::Milliseconds(kFirstReconnectMs) * (1 << doublings),
                                        absl::Milliseconds(kLongestReconnectMs));
  return pause * std::uniform_real_distribution<double>(0.75, 1.0)(random);
}

}  // namespace quantloom::cli
